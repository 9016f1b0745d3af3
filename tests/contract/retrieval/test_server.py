"""What only a server can do: go away, come back, and hold more rows than one answer."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Any

import pytest
from pymilvus import MilvusClient

from ramole.core.errors import Unavailable
from ramole.core.names import AdapterRef
from ramole.retrieval.generations import ALIAS
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import Hit, IndexEntry, Row


def add(index: VectorIndex, name: str) -> None:
    index.upsert(
        [IndexEntry(Row(AdapterRef("acme", name, 1, "0" * 64), "base", False), [[1.0, 0.0]])], encoder_id="enc"
    )


def find(index: VectorIndex) -> list[Hit]:
    return index.search([1.0, 0.0], encoder_id="enc", base_model="base", tenant="acme", k=8).hits


def test_an_outage_is_unavailable_and_heals_by_itself(server: Any) -> None:
    index = VectorIndex.open(server.uri, timeout_s=5)
    add(index, "mail")
    server.stop(signal.SIGKILL)
    for call in (lambda: find(index), lambda: add(index, "code"), lambda: list(index.rows())):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="retry"):
            call()
        assert time.monotonic() - began < 10
    with pytest.raises(Unavailable, match="does not answer"):
        VectorIndex.open(server.uri, timeout_s=1)
    server.start()
    deadline = time.monotonic() + 60
    while True:
        try:
            hits = find(index)
            break
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert [hit.ref.name for hit in hits] == ["mail"]
    index.close()


def test_a_collection_that_was_dropped_meanwhile_is_looked_up_anew(server: Any) -> None:
    index = VectorIndex.open(server.uri)
    add(index, "mail")
    client = MilvusClient(server.uri, timeout=10, dedicated=True)
    client.drop_alias(ALIAS)
    for name in client.list_collections():
        client.drop_collection(name)
    client.close()
    with suppress(Unavailable):  # of the search that finds out
        find(index)
    assert find(index) == []
    add(index, "code")
    assert [hit.ref.name for hit in find(index)] == ["code"]
    index.close()


def test_a_creation_that_a_crash_left_half_done_is_finished(server: Any) -> None:
    index = VectorIndex.open(server.uri)
    add(index, "mail")
    index.close()
    client = MilvusClient(server.uri, timeout=10, dedicated=True)
    client.drop_alias(ALIAS)
    for name in client.list_collections():
        client.release_collection(name)
        [left] = client.list_indexes(name)
        client.drop_index(name, left)
    client.close()
    index = VectorIndex.open(server.uri)
    assert find(index) == []
    add(index, "code")
    assert sorted(hit.ref.name for hit in find(index)) == ["code", "mail"]
    index.close()


def test_all_of_very_many_rows_are_listed(server: Any) -> None:
    index = VectorIndex.open(server.uri)
    add(index, "first")
    client = MilvusClient(server.uri, timeout=60, dedicated=True)
    entity = {"base_model": "base", "tenant": "acme", "is_public": True, "version": 1, "digest": "0" * 64, "tags": []}
    keys = [f"n{i}" for i in range(17_000)]
    for start in range(0, len(keys), 4250):
        client.upsert(
            ALIAS,
            [
                {**entity, "pk": f"acme/{key}@1", "name": key, "num_samples": 1, "emb": [1.0, 1.0]}
                for key in keys[start : start + 4250]
            ],
        )
    client.close()
    listed = [row.ref.name for batch in index.rows() for row in batch]
    assert len(listed) == len(set(listed)) == len(keys) + 1
    assert set(listed) == {"first", *keys}
    index.close()
