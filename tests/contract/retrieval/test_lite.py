"""The embedded index as a resource: locks, threads, crashes."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ramole.core.errors import LimitExceeded, WrongState
from ramole.core.names import AdapterRef
from ramole.retrieval.doubt import MIN_ADAPTERS
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.rows import Rows
from ramole.retrieval.values import IndexEntry, Row
from support.full_disk import disk_of, fill


def add(index: VectorIndex, name: str) -> None:
    index.upsert(
        [IndexEntry(Row(AdapterRef("acme", name, 1, "0" * 64), "base", False), [[1.0, 0.0]])], encoder_id="enc"
    )


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on" / "demand" / "index.db"
    first = VectorIndex.open(str(path))
    add(first, "mail")
    with pytest.raises(WrongState, match=r"retrieval\.uri.*already open.*milvus-lite server"):
        VectorIndex.open(str(path))
    first.close()
    second = VectorIndex.open(str(path))
    add(second, "code")
    second.close()


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(b"a file of an older engine")
    with pytest.raises(WrongState, match=r"retrieval\.uri.*cannot be opened"):
        VectorIndex.open(str(path))
    assert path.read_bytes() == b"a file of an older engine"


def test_close_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    index = VectorIndex.open(str(tmp_path / "index.db"))
    add(index, "mail")
    index.search([1.0, 0.0], encoder_id="enc", base_model="base", tenant="acme", k=1)
    assert set(threading.enumerate()) - before
    index.close()
    del index
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


CHILD = """
import sys
from ramole.core.names import AdapterRef
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.rows import Rows
from ramole.retrieval.values import IndexEntry, Row

index = VectorIndex.open(sys.argv[1], timeout_s=120)
for i in range(10_000):
    name = f"{sys.argv[2]}-{i}"
    index.upsert([IndexEntry(Row(AdapterRef("acme", name, 1, "0" * 64), "base", False), [[1.0, i]])], encoder_id="enc")
    print(name, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = str(tmp_path / "index.db")
    acknowledged: set[str] = set()
    for life in ("first", "second"):
        child = subprocess.Popen([sys.executable, "-c", CHILD, path, life], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(60):
            line = child.stdout.readline()
            assert line, "the child ended by itself"
            acknowledged.add(line.strip())
        child.kill()
        # Lines that were on their way when the child died count as well.
        acknowledged.update(line.strip() for line in child.stdout if line.endswith("\n"))
        child.wait()
        child.stdout.close()
    index = VectorIndex.open(path, timeout_s=120)
    found = {row.ref.name for batch in index.rows() for row in batch}
    assert len(acknowledged) >= 120
    assert acknowledged <= found
    add(index, "after")
    assert len(index.search([1.0, 0.0], encoder_id="enc", base_model="base", tenant="acme", k=8).hits) == 8
    index.close()


def test_many_adapters_on_the_embedded_engine_are_worth_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ramole.retrieval.index._LITE_COMFORT", 1)
    index = VectorIndex.open(str(tmp_path / "index.db"))
    try:
        for i, warned in enumerate((0, 1, 1)):
            add(index, f"a{i}")
            index.calibrate("base")
            assert caplog.text.count("retrieval.uri") == warned
    finally:
        index.close()


def test_rows_are_counted_when_enough_has_changed_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    count = Rows.count
    monkeypatch.setattr(Rows, "count", lambda *args: counted.append(count(*args)) or counted[-1])
    index = VectorIndex.open(str(tmp_path / "index.db"))
    try:
        for size in (MIN_ADAPTERS - 1, MIN_ADAPTERS):
            for i in range(size):
                add(index, f"a{i}")
            for _ in range(3):
                index.calibrate("base")
        assert counted == [MIN_ADAPTERS - 1, MIN_ADAPTERS]
        for i in range(MIN_ADAPTERS // 10):
            add(index, f"b{i}")
        index.calibrate("base")
        assert counted == [MIN_ADAPTERS - 1, MIN_ADAPTERS]
        index.remove([AdapterRef("acme", "a0", 1, "0" * 64)])
        index.calibrate("base")
        assert counted[2:] == [MIN_ADAPTERS + MIN_ADAPTERS // 10 - 1]
    finally:
        index.close()


def test_a_full_disk_is_told_as_one_and_not_as_an_index_that_does_not_answer(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", 2**20) as disk:
        index = VectorIndex.open(str(disk / "index.db"))
        try:
            add(index, "a")
            fill(disk)

            def add_many() -> None:
                for i in range(1000):
                    add(index, f"late{i}")

            with pytest.raises(LimitExceeded, match="disk") as caught:
                add_many()
            assert caught.value.field == "data_dir"
        finally:
            index.close()
