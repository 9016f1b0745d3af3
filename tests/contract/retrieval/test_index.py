"""What every engine must do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from ramole.core.errors import InvalidInput, WrongState
from ramole.core.names import AdapterRef
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import Hit, IndexEntry, Row

ENCODER = "minilm-0123456789abcdef"
BASE = "zoo/tiny-llama:v1@main"
DIM = 16


def row(name: str, version: int = 1, *, tenant: str = "acme", base: str = BASE, is_public: bool = False) -> Row:
    return Row(AdapterRef(tenant, name, version, f"{version:064x}"), base, is_public)


def put(index: VectorIndex, entry: Row, *samples: NDArray[np.float32]) -> None:
    index.upsert([IndexEntry(entry, samples)], encoder_id=ENCODER)


def find(
    index: VectorIndex, vector: NDArray[np.float32], *, tenant: str = "acme", base: str = BASE, k: int = 8
) -> list[Hit]:
    return index.search(vector, encoder_id=ENCODER, base_model=base, tenant=tenant, k=k).hits


def names(hits: list[Hit]) -> list[str]:
    return [str(hit.ref) for hit in hits]


def axis(i: int) -> NDArray[np.float32]:
    return np.eye(DIM, dtype=np.float32)[i]


def test_an_index_that_never_saw_a_vector_is_empty(index: VectorIndex) -> None:
    assert find(index, axis(0)) == []
    assert list(index.rows()) == []
    index.remove([row("absent").ref])


def test_an_upload_is_found_by_the_next_search_with_the_cosine_of_its_mean(index: VectorIndex) -> None:
    samples = [axis(0), axis(1), (axis(0) + axis(2)) / np.sqrt(2).astype(np.float32)]
    put(index, row("mail"), *samples)
    [hit] = find(index, axis(0) * 3)
    mean = np.mean(samples, axis=0)
    assert hit.ref == row("mail").ref
    assert hit.similarity == pytest.approx(mean[0] / np.linalg.norm(mean), abs=1e-6)
    [opposite] = find(index, -mean)
    assert opposite.similarity == pytest.approx(-1.0, abs=1e-6)
    assert opposite.similarity >= -1.0


def test_answers_equal_an_exact_search_under_every_filter(index: VectorIndex) -> None:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((6, DIM))
    tenants, bases = ["acme", "beta", "gamma"], ["a/base", "b/base"]
    entries, vectors = [], []
    for i in range(90):
        entry = row(f"n{i}", tenant=tenants[i % 3], base=bases[i % 2], is_public=i % 5 == 0)
        sample = (centres[i % 6] + 0.3 * rng.standard_normal(DIM)).astype(np.float32)
        entries.append(IndexEntry(entry, [sample]))
        vectors.append(sample / np.linalg.norm(sample))
    index.upsert(entries, encoder_id=ENCODER)
    matrix = np.stack(vectors)
    for trial in range(24):
        tenant, base, k = tenants[trial % 3], bases[trial % 2], 1 + trial % 8
        query = rng.standard_normal(DIM).astype(np.float32)
        cosine = matrix @ (query / np.linalg.norm(query))
        rows = [entry.row for entry in entries]
        allowed = [i for i, r in enumerate(rows) if r.base_model == base and (r.is_public or r.ref.tenant == tenant)]
        best = sorted(allowed, key=lambda i: -cosine[i])[:k]
        hits = find(index, query, tenant=tenant, base=base, k=k)
        assert names(hits) == [str(rows[i].ref) for i in best]
        assert [hit.similarity for hit in hits] == pytest.approx(cosine[best].tolist(), abs=1e-5)


def test_others_find_public_adapters_only(index: VectorIndex) -> None:
    put(index, row("private"), axis(0))
    put(index, row("shared", is_public=True), axis(1))
    assert names(find(index, axis(0), tenant="stranger")) == ["acme/shared@1"]
    put(index, row("shared", is_public=False), axis(1))
    assert find(index, axis(0), tenant="stranger") == []
    assert len(find(index, axis(0))) == 2


def test_a_name_cannot_widen_the_filter(index: VectorIndex) -> None:
    put(index, row("private"), axis(0))
    for value in ('x" or tenant != "', "x' or 1 == 1", "x\\", "", "a b", "ä", "x" * 129, "x\n"):
        with pytest.raises(InvalidInput, match="tenant"):
            find(index, axis(0), tenant=value)
        with pytest.raises(InvalidInput, match="base_model"):
            find(index, axis(0), base=value)
        with pytest.raises(InvalidInput):
            put(index, row("evil", base=value), axis(0))
        with pytest.raises(InvalidInput):
            put(index, row(value), axis(0))
        with pytest.raises(InvalidInput):
            index.remove([row("private", tenant=value).ref])
    assert names(find(index, axis(0))) == ["acme/private@1"]


def test_a_new_version_replaces_the_old_one_even_on_another_base(index: VectorIndex) -> None:
    put(index, row("mail", 1), axis(0))
    put(index, row("mail", 2), axis(1))
    # Right beside the query stood version 1.
    assert names(find(index, axis(0))) == ["acme/mail@2"]
    put(index, row("mail", 3, base="b/base"), axis(0))
    assert find(index, axis(0)) == []
    assert names(find(index, axis(0), base="b/base")) == ["acme/mail@3"]


def test_an_older_version_that_comes_late_stays_out(index: VectorIndex) -> None:
    put(index, row("mail", 10), axis(1))
    put(index, row("mail", 9), axis(0))
    assert names(find(index, axis(0))) == ["acme/mail@10"]
    assert [str(r.ref) for batch in index.rows() for r in batch] == ["acme/mail@10"]


def test_the_same_version_again_moves_its_one_row(index: VectorIndex) -> None:
    put(index, row("mail"), axis(0))
    put(index, row("mail", base="b/base", is_public=True), axis(1))
    assert find(index, axis(1)) == []
    [hit] = find(index, axis(1), base="b/base", tenant="stranger")
    assert hit.similarity == pytest.approx(1.0)
    assert hit.similarity <= 1.0


def test_same_name_of_another_tenant_is_another_adapter(index: VectorIndex) -> None:
    put(index, row("mail", 2), axis(0))
    put(index, row("mail", 1, tenant="beta", is_public=True), axis(0))
    assert names(find(index, axis(0))) == ["acme/mail@2", "beta/mail@1"]
    index.remove([row("mail", 2).ref])
    assert names(find(index, axis(0))) == ["beta/mail@1"]


def test_ties_go_by_name(index: VectorIndex) -> None:
    for name in ("c", "a", "d", "b"):
        put(index, row(name), axis(0))
    for k in (1, 3, 4):
        assert names(find(index, axis(0), k=k)) == [f"acme/{name}@1" for name in "abcd"[:k]]


def test_removed_is_gone_at_once_and_may_come_back(index: VectorIndex) -> None:
    put(index, row("mail"), axis(0))
    put(index, row("code"), axis(1))
    index.remove([row("mail", 2).ref])
    assert len(find(index, axis(0))) == 2
    for _ in range(2):
        index.remove([row("mail").ref])
        assert names(find(index, axis(0))) == ["acme/code@1"]
    put(index, row("mail"), axis(0))
    assert names(find(index, axis(0), k=1)) == ["acme/mail@1"]


def test_the_adapters_of_all_bases_and_tenants_are_counted(index: VectorIndex) -> None:
    assert index.count() == 0
    put(index, row("a"), axis(0))
    put(index, row("b", base="another"), axis(1))
    put(index, row("a", tenant="beta"), axis(2))
    put(index, row("a", version=2), axis(3))
    assert index.count() == 3
    index.remove([row("b", base="another").ref])
    assert index.count() == 2


def test_vectors_of_another_encoder_never_meet(index: VectorIndex) -> None:
    put(index, row("mail"), axis(0))
    other = "minilm-fedcba9876543210"
    with pytest.raises(WrongState, match="encoder_id"):
        index.search(axis(0), encoder_id=other, base_model=BASE, tenant="acme", k=1)
    with pytest.raises(WrongState, match="encoder_id"):
        index.upsert([IndexEntry(row("code"), [axis(0)])], encoder_id=other)
    with pytest.raises(InvalidInput, match="dimensions"):
        find(index, np.ones(DIM + 1, dtype=np.float32))
    with pytest.raises(InvalidInput, match="dimensions"):
        put(index, row("code"), np.ones(DIM - 1, dtype=np.float32))
    assert names(find(index, axis(0))) == ["acme/mail@1"]


def test_a_bad_vector_never_gets_in(index: VectorIndex) -> None:
    put(index, row("mail"), axis(0))
    good = axis(0)
    for bad in (good * np.nan, np.where(good > 0, np.inf, good), good * 0, good[:0], good[None]):
        with pytest.raises(InvalidInput, match=r"samples\[1\]"):
            put(index, row("bad"), good, bad)
        with pytest.raises(InvalidInput, match="vector"):
            find(index, bad)
    assert names(find(index, axis(0))) == ["acme/mail@1"]


def test_samples_that_cancel_out_are_refused(index: VectorIndex) -> None:
    with pytest.raises(InvalidInput, match="samples"):
        put(index, row("mail"), axis(0), -axis(0))
    with pytest.raises(InvalidInput, match="samples"):
        put(index, row("mail"))


def test_k_has_limits(index: VectorIndex) -> None:
    for k in (0, 9):
        with pytest.raises(InvalidInput, match="k"):
            find(index, axis(0), k=k)


def test_rows_survive_a_reopen(uri: str) -> None:
    first = VectorIndex.open(uri)
    put(first, row("mail", is_public=True), axis(0))
    first.close()
    second = VectorIndex.open(uri)
    try:
        assert names(find(second, axis(0))) == ["acme/mail@1"]
        assert [r for batch in second.rows() for r in batch] == [row("mail", is_public=True)]
        with pytest.raises(WrongState):
            second.upsert([IndexEntry(row("code"), [axis(0)])], encoder_id="another")
    finally:
        second.close()


def test_everyone_reads_their_own_upload_while_others_write(index: VectorIndex) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((40, DIM)).astype(np.float32)

    def upload(i: int) -> str:
        put(index, row(f"n{i}"), vectors[i])
        return names(find(index, vectors[i], k=1))[0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(upload, range(40))) == [f"acme/n{i}@1" for i in range(40)]


def test_first_uploads_through_two_replicas_make_one_collection(uri: str, engine: object) -> None:
    if engine is None:
        pytest.skip("a folder has one owner")
    replicas = [VectorIndex.open(uri) for _ in range(2)]
    barrier = threading.Barrier(2)

    def upload(i: int) -> None:
        barrier.wait()
        put(replicas[i], row(f"n{i}"), axis(i))

    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(upload, range(2)))
        for replica in replicas:
            assert sorted(names(find(replica, axis(0)))) == ["acme/n0@1", "acme/n1@1"]
    finally:
        for replica in replicas:
            replica.close()
