"""The index learns from its own rows how much to doubt what it finds: the same on every engine and in evaluations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ramole.core.names import AdapterRef
from ramole.lab.memory_index import MemoryIndex
from ramole.retrieval.few import OwnScores
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import IndexEntry, Row

DIM, NUM, SAMPLES = 24, 40, 4


def near(centre: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    vector = centre + rng.normal(0, 0.12, DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def entries(first: int, count: int, *, base: str = "base", tenant: str = "acme") -> list[IndexEntry]:
    made = []
    for i in range(first, first + count):
        rng = np.random.default_rng(i)
        row = Row(AdapterRef(tenant, f"a{i}", 1, f"{i:064x}"), base, is_public=False)
        made.append(IndexEntry(row, [near(centre(i), rng) for _ in range(SAMPLES)]))
    return made


def centre(i: int) -> NDArray[np.float32]:
    vector = np.random.default_rng(1000 + i).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def doubt_of(
    index: VectorIndex, vector: NDArray[np.float32], *, base: str = "base", tenant: str = "acme"
) -> float | None:
    return index.search(vector, encoder_id="enc", base_model=base, tenant=tenant, k=1).doubt


def test_the_index_learns_when_to_doubt(index: VectorIndex) -> None:
    assert not index.calibrate("base")
    index.upsert(entries(0, 20), encoder_id="enc")
    assert not index.calibrate("base"), "too few to learn from"
    made = entries(0, NUM)
    index.upsert(made[20:], encoder_id="enc")
    assert index.calibrate("base")
    assert not index.calibrate("base"), "nothing has changed"
    rng = np.random.default_rng(5)
    known = [doubt_of(index, near(centre(i), rng)) for i in range(NUM)]
    strange = [doubt_of(index, centre(i)) for i in range(500, 540)]
    assert np.mean(np.array(known, float)) < 0.3
    assert np.mean(np.array(strange, float)) > 0.6
    # The evaluation's numbers are those of a server.
    samples = [np.array(entry.samples) for entry in made]
    means = np.stack([group.mean(0) for group in samples])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    other = MemoryIndex(lambda texts: np.zeros((len(texts), DIM), np.float32), tuple(samples), means)
    learned = other.doubt(np.ones(NUM, np.bool_))
    assert learned is not None
    query = near(centre(3), rng)
    assert learned(sorted((query @ means.T).tolist(), reverse=True)) == pytest.approx(doubt_of(index, query), abs=0.02)

    assert doubt_of(index, query, base="other") is None
    assert doubt_of(index, query, tenant="nobody") is None, "who sees no adapter cannot tell"
    index.upsert(entries(NUM, 2), encoder_id="enc")
    assert not index.calibrate("base"), "two more are no news"
    index.upsert(entries(NUM + 2, 4), encoder_id="enc")
    assert index.calibrate("base")


def test_few_adapters_are_doubted_by_their_own_samples(index: VectorIndex) -> None:
    made = entries(0, 4)
    index.upsert(made, encoder_id="enc")
    index.calibrate("base")
    rng = np.random.default_rng(7)
    found = [
        index.search(vector, encoder_id="enc", base_model="base", tenant="acme", k=1)
        for vector in (near(centre(2), rng), centre(500))
    ]
    assert all(one.is_of_few for one in found)
    known, strange = (one.doubt for one in found)
    assert known is not None
    assert strange is not None
    assert known < 0.3
    assert strange > 0.9
    # The evaluation's numbers are those of a server.
    own = OwnScores.of(np.array(made[2].samples), 0)
    assert own is not None
    assert own.doubt(found[0].hits[0].similarity, 4) == pytest.approx(known, abs=1e-3)
    # Of one sample nothing can be told, and a version that comes later is asked anew.
    lonely = IndexEntry(made[2].row, made[2].samples[:1])
    index.remove([made[2].row.ref])
    newer = Row(AdapterRef("acme", "a2", 2, f"{2:064x}"), "base", is_public=False)
    index.upsert([IndexEntry(newer, lonely.samples)], encoder_id="enc")
    assert doubt_of(index, near(centre(2), rng)) is None


def test_another_encoder_has_to_learn_anew(index: VectorIndex) -> None:
    index.upsert(entries(0, NUM), encoder_id="enc")
    assert index.calibrate("base")
    number = index.build("new", DIM)
    index.upsert(entries(0, NUM), encoder_id="new")
    index.promote(number)
    found = index.search(centre(0), encoder_id="new", base_model="base", tenant="acme", k=1)
    assert found.doubt is None or found.is_of_few
    assert index.calibrate("base")
    assert index.search(centre(0), encoder_id="new", base_model="base", tenant="acme", k=1).doubt is not None
