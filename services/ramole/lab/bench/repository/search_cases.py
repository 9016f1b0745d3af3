"""Searches on Milvus Lite and on a Milvus server, beside numpy and faiss, which are told the rows to look at.

One thread for everybody in this process: threads that wait for each other on a busy machine would be all that is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from ramole.core.call import ANONYMOUS
from ramole.lab.bench.repository.fleet import Vectors, fill_index, make_refs, random_vectors, seal
from ramole.lab.bench.repository.options import SearchCase
from ramole.lab.bench.timing import interleave, ratio
from ramole.retrieval.filters import of_base
from ramole.retrieval.generations import ALIAS, IndexType
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.lite import LiteServer

LITE, SERVER, NUMPY, FAISS = "lite", "server", "numpy", "faiss_flat"
BARE = "_bare"

DIM = 384
_ENCODER = "random"
_NUM_CHECKED = 20

Search = Callable[[Vectors], list[int]]
"""One query ``[dim]`` to the numbers of its k nearest rows, best first."""


def fill_server(server: str, cases: Sequence[SearchCase]) -> dict[str, str]:
    """Indexes the rows of every case that has them on a server, and waits once for all until it has settled.

    Args:
        server: URI of a Milvus server.

    Returns:
        Name of the case -> URI of its database.
    """
    filled = [case for case in cases if case.on_server]
    databases = {case.name: _database(server, case.name) for case in filled}
    for case in filled:
        _fill(databases[case.name], case)
    for case in filled:
        seal(databases[case.name], case.num_rows)
    return databases


def run_search_case(case: SearchCase, database: str) -> dict[str, Any]:
    """Measures one size.

    Args:
        database: URI of a filled database of a Milvus server; empty = there is none, and its figures are left out.

    Returns:
        For each contestant p50 and p99 of a search in milliseconds, and the share of the exact answers that it found.
        Those named ``bare`` are the least that the engine can be asked for: what is not theirs is ours.
    """
    vectors = _vectors(case)
    near = vectors[np.arange(case.num_queries) % case.num_rows]
    queries = random_vectors(case.num_queries, DIM, seed=2) * 0.5 + near
    own = vectors[:: case.num_bases]
    rivals: dict[str, Search] = {NUMPY: _numpy(own, case.num_bases, case.k)}
    if find_spec("faiss") is not None:
        rivals[FAISS] = _faiss(own, case.num_bases, case.k)
    engines = [LITE] * case.on_lite + [SERVER] * bool(database)
    contestants: dict[str, dict[str, float]] = {}
    # One engine after the other, each beside the rivals: nobody runs both, and each would empty the other's caches.
    for engine in engines:
        with ExitStack() as stack:
            uri = database if engine == SERVER else _lite(case, stack)
            ours = {engine: _through_index(uri, case, stack), f"{engine}{BARE}": _bare(uri, case, stack)}
            contestants |= _measured(ours | rivals, queries)
    contestants = contestants or _measured(rivals, queries)
    return {"name": case.name, "kind": "search", "case": asdict(case), "contestants": contestants}


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
            **({"over_bare": ratio(times, name, name + BARE)} if name + BARE in times else {}),
            "recall": recalls[name],
        }
        for name, seconds in times.items()
    }


def _vectors(case: SearchCase) -> Vectors:
    return random_vectors(case.num_rows, DIM, seed=1)


def _base(number: int) -> str:
    return f"bench/base-{number}"


def _fill(uri: str, case: SearchCase) -> None:
    bases = [_base(i) for i in range(case.num_bases)]
    index_type = IndexType.HNSW if case.is_hnsw else IndexType.FLAT
    fill_index(uri, make_refs(case.num_rows), bases, _vectors(case), _ENCODER, index_type)


def _database(server: str, name: str) -> str:
    """A new database of a server: an index has one to itself."""
    client = MilvusClient(server, timeout=60, dedicated=True)
    client.create_database(name)
    client.close()
    return f"{server}/{name}"


def _lite(case: SearchCase, stack: ExitStack) -> str:
    """A filled Lite folder's server."""
    folder = stack.enter_context(TemporaryDirectory(prefix="ramole-bench-"))
    lite = LiteServer.open(Path(folder) / "index.db")
    stack.callback(lite.close)
    _fill(lite.uri, case)
    return lite.uri


def _through_index(uri: str, case: SearchCase, stack: ExitStack) -> Search:
    numbers = {ref: number for number, ref in enumerate(make_refs(case.num_rows))}
    index = VectorIndex.open(uri)
    stack.callback(index.close)

    def search(query: Vectors) -> list[int]:
        found = index.search(query, encoder_id=_ENCODER, base_model=_base(0), tenant=ANONYMOUS.tenant, k=case.k)
        return [numbers[hit.ref] for hit in found.hits]

    return search


def _bare(uri: str, case: SearchCase, stack: ExitStack) -> Search:
    """pymilvus on the same rows: k primary keys, no fields, not asked who may see them, and whatever is stale."""
    numbers = {str(ref): number for number, ref in enumerate(make_refs(case.num_rows))}
    client = MilvusClient(uri, timeout=60, dedicated=True)
    stack.callback(client.close)
    request: dict[str, Any] = {
        "collection_name": client.describe_collection(ALIAS)["collection_name"],
        "filter": of_base(_base(0)) if case.num_bases > 1 else "",
        "limit": case.k,
        "consistency_level": "Eventually",
    }

    def search(query: Vectors) -> list[int]:
        [hits] = client.search(data=[query], **request)
        return [numbers[key] for key in hits.ids]

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
