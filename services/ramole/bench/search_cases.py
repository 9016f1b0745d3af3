"""Searches on Milvus Lite and on a Milvus server, beside numpy and faiss, which are told the rows to look at.

One thread for everybody in this process: threads that wait for each other on a busy machine would be all that is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pymilvus import MilvusClient
from threadpoolctl import threadpool_limits

from ramole.bench.fleet import Vectors, fill_index, make_refs, random_vectors, seal
from ramole.bench.repository_options import SearchCase
from ramole.bench.timing import interleave, ratio
from ramole.core.names import DEFAULT_TENANT
from ramole.retrieval.generations import IndexType
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.lite import LiteServer

LITE, SERVER, NUMPY, FAISS = "lite", "server", "numpy", "faiss_flat"

DIM = 384
_ENCODER = "random"
_NUM_CHECKED = 20

Search = Callable[[Vectors], list[int]]
"""One query ``[dim]`` to the numbers of its k nearest rows, best first."""


def run_search_case(case: SearchCase, server: str) -> dict[str, Any]:
    """Measures one size.

    Args:
        server: URI of a Milvus server; empty = there is none, and its figures are left out.

    Returns:
        For each contestant p50 and p99 of a search in milliseconds, and the share of the exact answers that it found.
    """
    vectors = random_vectors(case.num_rows, DIM, seed=1)
    near = vectors[np.arange(case.num_queries) % case.num_rows]
    queries = random_vectors(case.num_queries, DIM, seed=2) * 0.5 + near
    own = vectors[:: case.num_bases]
    peers: dict[str, Search] = {NUMPY: _numpy(own, case.num_bases, case.k)}
    if find_spec("faiss") is not None:
        peers[FAISS] = _faiss(own, case.num_bases, case.k)
    engines = [LITE] * case.on_lite + [SERVER] * (case.on_server and bool(server))
    contestants: dict[str, dict[str, float]] = {}
    # One engine after the other, each beside the peers: nobody runs both, and each would empty the other's caches.
    for engine in engines:
        with ExitStack() as stack:
            ours = {engine: _engine(engine, server, case, vectors, stack)}
            contestants = _measured(ours | peers, queries) | contestants
    contestants = contestants or _measured(peers, queries)
    return {
        "name": case.name,
        "kind": "search",
        "case": asdict(case),
        "contestants": {name: contestants[name] for name in (*engines, *peers)},
    }


def _engine(engine: str, server: str, case: SearchCase, vectors: Vectors, stack: ExitStack) -> Search:
    if engine == SERVER:
        return _through_index(_database(server, case.name), case, vectors, stack, is_server=True)
    folder = stack.enter_context(TemporaryDirectory(prefix="ramole-bench-"))
    lite = LiteServer.open(Path(folder) / "index.db")
    stack.callback(lite.close)
    return _through_index(lite.uri, case, vectors, stack, is_server=False)


def _measured(contestants: dict[str, Search], queries: Vectors) -> dict[str, dict[str, float]]:
    exact = [contestants[NUMPY](query) for query in queries[:_NUM_CHECKED]]
    recalls = {name: _recall(search, queries, exact) for name, search in contestants.items()}
    calls = {name: _next_of(search, queries) for name, search in contestants.items()}
    with threadpool_limits(1):
        times = interleave(calls, rounds=len(queries), device=torch.device("cpu"))
    return {
        name: {
            "p50_ms": 1000 * quantiles(seconds, n=100, method="inclusive")[49],
            "p99_ms": 1000 * quantiles(seconds, n=100, method="inclusive")[98],
            "over_numpy": ratio(times, name, NUMPY),
            "recall": recalls[name],
        }
        for name, seconds in times.items()
    }


def _base(number: int) -> str:
    return f"bench/base-{number}"


def _database(server: str, name: str) -> str:
    """A new database of a server: an index has one to itself."""
    client = MilvusClient(server, timeout=60, dedicated=True)
    client.create_database(name)
    client.close()
    return f"{server}/{name}"


def _through_index(uri: str, case: SearchCase, vectors: Vectors, stack: ExitStack, *, is_server: bool) -> Search:
    refs = make_refs(case.num_rows)
    numbers = {ref: number for number, ref in enumerate(refs)}
    bases = [_base(i) for i in range(case.num_bases)]
    fill_index(uri, refs, bases, vectors, _ENCODER, IndexType.HNSW if case.is_hnsw else IndexType.FLAT)
    if is_server:
        seal(uri, case.num_rows)
    index = VectorIndex.open(uri)
    stack.callback(index.close)

    def search(query: Vectors) -> list[int]:
        found = index.search(query, encoder_id=_ENCODER, base_model=_base(0), tenant=DEFAULT_TENANT, k=case.k)
        return [numbers[hit.ref] for hit in found.hits]

    return search


def _numpy(visible: Vectors, stride: int, k: int) -> Search:
    rows = np.ascontiguousarray(visible)

    def search(query: Vectors) -> list[int]:
        scores = rows @ query
        best = np.argpartition(scores, -k)[-k:]
        return [int(i) * stride for i in best[np.argsort(-scores[best])]]

    return search


def _faiss(visible: Vectors, stride: int, k: int) -> Search:
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(np.ascontiguousarray(visible))

    def search(query: Vectors) -> list[int]:
        _, found = index.search(query[None], k)
        return [int(i) * stride for i in found[0]]

    return search


def _recall(search: Search, queries: Vectors, exact: list[list[int]]) -> float:
    shares = [len({*search(query)} & {*best}) / len(best) for query, best in zip(queries, exact, strict=False)]
    return float(np.mean(shares))


def _next_of(search: Search, queries: Vectors) -> Callable[[], object]:
    turn = cycle(queries)
    return lambda: search(next(turn))
