"""kill -9 at any point: what was acknowledged is there, what was not is gone or whole."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import s3fs

from ramole.adapters.store.records import NewAdapter
from ramole.adapters.store.store import Store
from ramole.core.errors import Unavailable
from ramole.core.names import AdapterName, AdapterRef
from unit.adapters import crash_points

TESTS = Path(__file__).parents[2]


def test_every_crash_point_on_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, crash_points.__file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100, "the scenario has many file operations, and each was a crash point"


class Cut(Exception):
    """No request passes any more: for the store's content that is as if the process had ended."""


class Wire:
    """Stands between the store and S3, request by request.

    Args:
        last: number of the last request that passes.
        is_lost: whether that one fails after it has been carried out: its answer is lost.
        error: raised by it, and by all later ones if it is Cut.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int, error: type[Exception], is_lost: bool) -> None:
        self.count = 0
        send = s3fs.S3FileSystem._call_s3

        async def call(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count > last and error is Cut:
                raise Cut
            answer = await send(fs, method, *args, **kwargs)
            if self.count == last and is_lost:
                raise error
            return answer

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)


def test_every_request_to_s3_may_be_the_last(s3_place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = 0
    is_done = False
    while not is_done:
        number += 1
        place = replace(s3_place, folder=tmp_path / f"server{number}", uri=f"{s3_place.uri}/{number}")
        log: list[str] = []
        with monkeypatch.context() as patch:
            Wire(patch, number, Cut, is_lost=False)
            try:
                store = place.open()
            except Unavailable:
                continue
            with suppress(Unavailable), closing(store):
                crash_points.run(store, log.append, crash_points.SHORT)
                is_done = True
        after = place.elsewhere(tmp_path / f"after{number}")
        crash_points.check(after.open(), log, after.files)
    assert number > 30


def upload(store: Store, upload: NewAdapter) -> tuple[AdapterRef | None, list[str]]:
    """Puts, publishes and publishes again, whatever the first publication answered."""
    try:
        ref = store.put(upload)[0].ref
    except Unavailable:
        return None, ["down"]
    answers = ["ok"]
    for _ in range(2):
        try:
            store.publish(ref)
            answers.append("ok")
        except Unavailable:
            answers.append("down")
    return ref, answers


def test_a_lost_answer_of_s3_loses_nothing(
    s3_place: Any, tmp_path: Path, new_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is carried out, but its answer is lost; the process lives on, its caller tries again or deletes."""
    outcomes = set()
    for number in range(1, 100):
        place = replace(s3_place, folder=tmp_path / f"server{number}", uri=f"{s3_place.uri}/{number}")
        store = place.open()
        with monkeypatch.context() as patch:
            wire = Wire(patch, number, OSError, is_lost=True)
            ref, answers = upload(store, new_at(place, "math", "a"))
        outcomes.add(tuple(answers))
        if ref is not None and number % 2:
            store.delete(AdapterName("default", "math"))
            ref = None
        store.close()
        after = place.elsewhere(tmp_path / f"after{number}").open()
        after.sweep()
        assert [record.ref for record in after.page(None, 9, lambda _: True)] == ([] if ref is None else [ref])
        assert place.objects == (set() if ref is None else {ref.digest})
        after.close()
        if wire.count < number:
            break
    assert outcomes == {("down",), ("ok", "down", "ok"), ("ok", "ok", "down"), ("ok", "ok", "ok")}
