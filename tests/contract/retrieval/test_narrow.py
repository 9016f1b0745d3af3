"""Searches without some adapters, or among some only, on every engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterName, AdapterRef
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import IndexEntry, Row

ENCODER = "enc"
NAMES = [f"n{i}" for i in range(12)]


def axis(i: int) -> np.ndarray:
    return np.eye(16, dtype=np.float32)[i]


@pytest.fixture(params=[0, 2], ids=["mean", "best"])
def index(uri: str, request: pytest.FixtureRequest) -> Iterator[VectorIndex]:
    """Twelve adapters of one tenant, the nearest first, and one of another with a name of theirs."""
    opened = VectorIndex.open(uri, best_of=request.param)
    entries = [
        IndexEntry(
            Row(AdapterRef("acme", name, 1, f"{i:064x}"), "base", False, ("even",) if i % 2 == 0 else ()),
            [axis(0) + (i + 1) / 12 * axis(i + 1), axis(0) + (i + 1) / 12 * axis(i + 2)],
        )
        for i, name in enumerate(NAMES)
    ]
    entries.append(IndexEntry(Row(AdapterRef("beta", "n1", 1, "f" * 64), "base", True), [axis(0) + axis(15)] * 2))
    opened.upsert(entries, encoder_id=ENCODER)
    yield opened
    opened.close()


def find(index: VectorIndex, k: int = 3, tags: Sequence[str] = (), **narrow: list[AdapterName]) -> list[str]:
    found = index.search(axis(0), encoder_id=ENCODER, base_model="base", tenant="acme", k=k, tags=tags, **narrow)
    assert found.doubt is None
    return [f"{hit.ref.tenant}/{hit.ref.name}" for hit in found.hits]


def names(*numbers: int, tenant: str = "acme", version: int = 0) -> list[AdapterName]:
    return [AdapterName(tenant, f"n{number}", version) for number in numbers]


def test_what_is_left_out_makes_room_for_others(index: VectorIndex) -> None:
    assert find(index) == ["acme/n0", "acme/n1", "acme/n2"]
    assert find(index, without=names(0, 2)) == ["acme/n1", "acme/n3", "acme/n4"]
    assert find(index, without=names(*range(9))) == ["acme/n9", "acme/n10", "acme/n11"]
    assert find(index, without=names(1, tenant="beta")) == ["acme/n0", "acme/n1", "acme/n2"]
    assert find(index, without=names(1, version=7)) == ["acme/n0", "acme/n2", "acme/n3"], "whatever its version"
    assert find(index, without=names(*range(12)) + names(1, tenant="beta")) == []


def test_only_some_are_looked_among(index: VectorIndex) -> None:
    assert find(index, among=names(7, 4)) == ["acme/n4", "acme/n7"]
    assert find(index, among=names(7, 4, 1), without=names(4)) == ["acme/n1", "acme/n7"]
    assert find(index, among=names(7, 4), tags=["even"]) == ["acme/n4"]
    assert find(index, among=names(1, tenant="beta")) == ["beta/n1"]
    assert find(index, among=names(99)) == []


def test_what_is_no_name_ends_no_literal(index: VectorIndex) -> None:
    with pytest.raises(InvalidInput):
        find(index, without=[AdapterName("acme", 'n0"] or true or name in ["')])
