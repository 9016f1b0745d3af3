"""Every scoring beside an exact one in numpy, and searches at the size that is promised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pymilvus import MilvusClient

from ramole.core.names import AdapterRef
from ramole.lab.bench.repository.fleet import flush, seal
from ramole.lab.milvus_server import MilvusServer
from ramole.retrieval.generations import IndexType
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import IndexEntry, Row

DIM = 24
BASES = [f"base/{i}" for i in range(20)]
TENANTS = ["acme", "beta"]


class World:
    """Adapters around common centres, so that many are nearly as near as the nearest."""

    def __init__(self, num_adapters: int, num_samples: int, num_bases: int) -> None:
        rng = np.random.default_rng(11)
        centres = rng.standard_normal((8, DIM))
        self.rows = [
            Row(AdapterRef(TENANTS[i % 2], f"n{i}", 1, f"{i:064x}"), BASES[i % num_bases], i % 7 == 0)
            for i in range(num_adapters)
        ]
        own = centres[rng.integers(0, 8, num_adapters)] + 0.3 * rng.standard_normal((num_adapters, DIM))
        sizes = rng.integers(1, num_samples + 1, num_adapters)
        self.samples = [
            _unit(own[i] + 0.5 * rng.standard_normal((sizes[i], DIM))).astype(np.float32) for i in range(num_adapters)
        ]
        self.means = _unit(np.stack([samples.mean(axis=0) for samples in self.samples]))
        self.queries = _unit(centres[rng.integers(0, 8, 40)] + rng.standard_normal((40, DIM)))

    def fill(self, index: VectorIndex) -> None:
        entries = [IndexEntry(row, list(samples)) for row, samples in zip(self.rows, self.samples, strict=True)]
        for start in range(0, len(entries), 500):
            index.upsert(entries[start : start + 500], encoder_id="enc")

    def scores(self, query: NDArray[np.float64], best_of: int) -> NDArray[np.float64]:
        if best_of == 0:
            return self.means @ query
        nearest = [np.sort(samples @ query)[::-1][:best_of] for samples in self.samples]
        return np.array([each.mean() for each in nearest])

    def best(self, query: NDArray[np.float64], base: str, tenant: str, best_of: int, k: int) -> list[int]:
        """The k best adapters of a base model that a tenant may see."""
        scores = self.scores(query, best_of)
        allowed = [
            j
            for j, row in enumerate(self.rows)
            if row.base_model == base and (row.is_public or row.ref.tenant == tenant)
        ]
        return sorted(allowed, key=lambda j: -scores[j])[:k]

    def check(self, index: VectorIndex, best_of: int, *, k: int = 5, queries: int = 40) -> None:
        for i, query in enumerate(self.queries[:queries]):
            base, tenant = self.rows[i].base_model, TENANTS[i % 2]
            scores = self.scores(query, best_of)
            expected = self.best(query, base, tenant, best_of, k)
            hits = index.search(query, encoder_id="enc", base_model=base, tenant=tenant, k=k).hits
            assert [hit.ref for hit in hits] == [self.rows[j].ref for j in expected]
            assert [hit.similarity for hit in hits] == pytest.approx(scores[expected].tolist(), abs=1e-5)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


@pytest.fixture
def indexes(uri: str, engine: object) -> Iterator[dict[int, VectorIndex]]:
    """One index, by its scoring. A folder has one owner: there the scoring is changed by opening it again."""
    if engine is None:
        pytest.skip("a folder has one owner")
    opened = {best_of: VectorIndex.open(uri, best_of=best_of) for best_of in (0, 1, 3)}
    yield opened
    for index in opened.values():
        index.close()


def test_every_scoring_equals_the_exact_one(indexes: dict[int, VectorIndex]) -> None:
    world = World(num_adapters=400, num_samples=12, num_bases=2)
    world.fill(indexes[0])
    for best_of, index in indexes.items():
        world.check(index, best_of)


def test_the_scoring_of_a_folder_is_a_setting(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("scoring") / "index.db")
    world = World(num_adapters=60, num_samples=6, num_bases=2)
    for best_of in (0, 1, 3):
        index = VectorIndex.open(path, best_of=best_of)
        if best_of == 0:
            world.fill(index)
        world.check(index, best_of)
        index.close()


def test_a_sample_counts_only_beside_its_mean(uri: str) -> None:
    index = VectorIndex.open(uri, best_of=1)
    try:
        x, y = np.eye(DIM)[:2]
        index.upsert([IndexEntry(Row(AdapterRef("acme", "mail", 1, "0" * 64), "base", False), [x])], encoder_id="enc")
        index.upsert(
            [IndexEntry(Row(AdapterRef("acme", "mail", 2, "1" * 64), "base", False), [y, y])], encoder_id="enc"
        )
        [hit] = index.search(x, encoder_id="enc", base_model="base", tenant="acme", k=8).hits
        assert (hit.ref.version, hit.similarity) == (2, pytest.approx(0, abs=1e-6))
        index.remove([hit.ref])
        assert index.search(x, encoder_id="enc", base_model="base", tenant="acme", k=8).hits == []
    finally:
        index.close()


@pytest.mark.slow  # a server takes half a minute to seal a segment and build its graph
def test_a_graph_finds_nearly_all_that_is_near_and_visible(milvus: MilvusServer) -> None:
    world = World(num_adapters=8000, num_samples=1, num_bases=2)
    uri = f"{milvus.uri}/hnsw"
    client = MilvusClient(milvus.uri, timeout=10, dedicated=True)
    client.create_database("hnsw")
    client.close()
    index = VectorIndex.open(uri, timeout_s=60, index_type=IndexType.HNSW)
    try:
        world.fill(index)
        flush(uri)
        seal(uri, num_rows=8000)
        shares = []
        for i, query in enumerate(world.queries):
            base, tenant = world.rows[i].base_model, TENANTS[i % 2]
            hits = index.search(query, encoder_id="enc", base_model=base, tenant=tenant, k=5).hits
            best = world.best(query, base, tenant, 0, 5)
            assert all(hit.ref.tenant == tenant or world.rows[int(hit.ref.name[1:])].is_public for hit in hits)
            shares.append(len({hit.ref for hit in hits} & {world.rows[j].ref for j in best}) / 5)
        assert np.mean(shares) > 0.95
    finally:
        index.close()


def test_recall_is_one_among_many_adapters_of_twenty_base_models(uri: str, request: pytest.FixtureRequest) -> None:
    num_adapters = {"lite-folder": 2_000, "milvus": 10_000}.get(request.node.callspec.params["engine"])
    if num_adapters is None:
        pytest.skip("the engine of the folder")
    index = VectorIndex.open(uri, timeout_s=60)
    try:
        world = World(num_adapters=num_adapters, num_samples=1, num_bases=20)
        world.fill(index)
        assert sum(len(batch) for batch in index.rows()) == num_adapters
        world.check(index, 0, queries=20)
    finally:
        index.close()
