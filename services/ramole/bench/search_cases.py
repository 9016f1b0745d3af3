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

from ramole.bench.fleet import Vectors, fill_index, make_refs, random_vectors, wait_until_sealed
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
    queries = random_vectors(case.num_queries, DIM, seed=2) * 0.5 + vectors[: case.num_queries]
    with ExitStack() as stack:
        contestants: dict[str, Search] = {}
        if case.on_lite:
            folder = stack.enter_context(TemporaryDirectory(prefix="ramole-bench-"))
            lite = LiteServer.open(Path(folder) / "index.db")
            stack.callback(lite.close)
            contestants[LITE] = _through_index(lite.uri, case, vectors, stack, is_server=False)
        if case.on_server and server:
            contestants[SERVER] = _through_index(_database(server, case.name), case, vectors, stack, is_server=True)
        contestants[NUMPY] = _numpy(vectors[:: case.num_bases], case.num_bases, case.k)
        if find_spec("faiss") is not None:
            contestants[FAISS] = _faiss(vectors[:: case.num_bases], case.num_bases, case.k)
        exact = [contestants[NUMPY](query) for query in queries[:_NUM_CHECKED]]
        recalls = {name: _recall(search, queries, exact) for name, search in contestants.items()}
        calls = {name: _next_of(search, queries) for name, search in contestants.items()}
        with threadpool_limits(1):
            times = interleave(calls, rounds=case.num_queries, device=torch.device("cpu"))
    return {
        "name": case.name,
        "kind": "search",
        "case": asdict(case),
        "contestants": {
            name: {
                "p50_ms": 1000 * quantiles(seconds, n=100, method="inclusive")[49],
                "p99_ms": 1000 * quantiles(seconds, n=100, method="inclusive")[98],
                "over_numpy": ratio(times, name, NUMPY),
                "recall": recalls[name],
            }
            for name, seconds in times.items()
        },
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
        wait_until_sealed(uri, case.num_rows)
    index = VectorIndex.open(uri)
    stack.callback(index.close)

    def search(query: Vectors) -> list[int]:
        hits = index.search(query, encoder_id=_ENCODER, base_model=_base(0), tenant=DEFAULT_TENANT, k=case.k)
        return [numbers[hit.ref] for hit in hits]

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
