"""Searches among adapters with certain tags, on every engine; and indexes from before there were tags."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from pymilvus import MilvusClient

from ramole.core.errors import InvalidInput, WrongState
from ramole.core.names import AdapterRef
from ramole.retrieval import generations
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import IndexEntry, Row

ENCODER = "enc"
DIM = 8
TAGS = ("a", "ab", "b", "a.b-c_1", "0", "z" * 64)


def row(name: str, *tags: str, tenant: str = "acme", version: int = 1) -> Row:
    return Row(AdapterRef(tenant, name, version, f"{version:064x}"), "base", False, tags)


def axis(i: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[i % DIM]


def put(index: VectorIndex, *rows: Row) -> None:
    index.upsert([IndexEntry(each, [axis(i), axis(i + 1)]) for i, each in enumerate(rows)], encoder_id=ENCODER)


def find(index: VectorIndex, *tags: str, tenant: str = "acme") -> set[str]:
    found = index.search(axis(0), encoder_id=ENCODER, base_model="base", tenant=tenant, k=8, tags=tags)
    assert not tags or found.doubt is None
    return {hit.ref.name for hit in found.hits}


@pytest.fixture(params=[0, 2], ids=["mean", "best"])
def index(uri: str, request: pytest.FixtureRequest) -> Iterator[VectorIndex]:
    opened = VectorIndex.open(uri, best_of=request.param)
    yield opened
    opened.close()


def test_only_what_has_all_of_the_tags_is_found(index: VectorIndex) -> None:
    every = [sorted(some) for size in (0, 1, 2) for some in combinations(TAGS, size)]
    rows = [row(f"n{i}", *tags) for i, tags in enumerate(every)]
    for start in range(0, len(rows), 7):  # at most 8 are found: some at a time
        some = rows[start : start + 7]
        put(index, *some, row("others", *TAGS, tenant="beta"))
        for asked in (*combinations(TAGS, 1), *combinations(TAGS, 2), ("absent",), ()):
            assert find(index, *asked) == {each.ref.name for each in some if set(asked) <= set(each.tags)}, asked
        assert find(index, *TAGS, tenant="beta") == {"others"}
        index.remove([each.ref for each in some])


def test_a_version_is_found_by_its_own_tags_and_not_by_those_of_the_one_before(index: VectorIndex) -> None:
    put(index, row("mail", "old", "both"))
    put(index, row("mail", "both", "new", version=2))
    assert (find(index, "old"), find(index, "new"), find(index, "both", "new")) == (set(), {"mail"}, {"mail"})


@pytest.mark.parametrize("tag", ['a"', 'a"] or true', "", "A", ".a", "a" * 65, "a b", "é", "a\\"])
def test_what_is_no_tag_is_refused(index: VectorIndex, tag: str) -> None:
    put(index, row("mail", "a"))
    with pytest.raises(InvalidInput) as refused:
        find(index, "a", tag)
    assert refused.value.field == "tags[1]"
    with pytest.raises(InvalidInput):
        put(index, row("code", tag))


def test_an_index_from_before_tags_goes_on_and_a_rebuild_gives_it_tags(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(generations, "_schema", _schema_without_tags)
        old = VectorIndex.open(uri)
        number = old.build(ENCODER, DIM)
        old.promote(number)
        abandoned = old.build(ENCODER, DIM)  # a rebuild that ended half-way
        old.close()
    index = VectorIndex.open(uri)
    try:
        put(index, row("mail", "a"), row("code"))
        assert find(index) == {"mail", "code"}
        with pytest.raises(WrongState, match="before adapters had tags") as refused:
            find(index, "a")
        assert refused.value.field == "tags"
        assert "ramole reindex" in refused.value.remedy
        rebuilt = index.build(ENCODER, DIM)
        assert rebuilt > abandoned, "what lacks tags is not gone on with"
        put(index, row("mail", "a"), row("code"))
        index.promote(rebuilt)
        assert find(index, "a") == {"mail"}
        assert find(index) == {"mail", "code"}
    finally:
        index.close()


def _schema_without_tags(dim: int) -> object:
    made = _schema(dim)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for field in made.fields:
        if field.name != "tags":
            schema.add_field(field.name, field.dtype, is_primary=field.is_primary, **field.params,
                             is_partition_key=field.is_partition_key)  # fmt: skip
    return schema


_schema = generations._schema
