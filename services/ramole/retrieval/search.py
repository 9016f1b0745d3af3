"""Searches of one generation: the mean rows, or the sample rows until the best adapters are certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient

from ramole.retrieval.generations import IndexGeneration
from ramole.retrieval.ranking import OVERFETCH, SampleHit, best, best_of
from ramole.retrieval.rows import REF_FIELDS, Rows, ref_of
from ramole.retrieval.values import Hit

_FIRST_SAMPLES, _MAX_SAMPLES, _WIDEN = 256, 16_384, 4
"""Sample rows of a search: at first, at most (Milvus's own limit), and how fast it widens."""


class Search:
    """All methods raise MilvusException when Milvus fails.

    Args:
        client: connected.
        rows: of the same client.
        timeout_s: of each call.
        best_of: what an adapter scores: 0 = cosine of the mean sample, j = mean over its j nearest samples.
    """

    def __init__(self, client: MilvusClient, rows: Rows, timeout_s: float, best_of: int) -> None:
        self._client = client
        self._rows = rows
        self._timeout_s = timeout_s
        self.best_of = best_of

    def nearest(
        self, generation: IndexGeneration, queries: NDArray[np.float32], visible: str, k: int
    ) -> list[list[Hit]]:
        """The k nearest adapters of each query.

        Args:
            queries: unit vectors, ``[n, dim]``.
            visible: filter of the rows that count.
        """
        if self.best_of:
            return [self._by_samples(generation, query, visible, k) for query in queries]
        found = self._search(generation.means, queries, visible, k + OVERFETCH)
        return [best([Hit(ref_of(hit["entity"]), _cosine(hit)) for hit in hits], k) for hits in found]

    def _by_samples(self, generation: IndexGeneration, query: NDArray[np.float32], visible: str, k: int) -> list[Hit]:
        """Widens the search over sample vectors until the k best adapters are certain."""
        limit = _FIRST_SAMPLES
        while True:
            [found] = self._search(generation.samples, query[None], visible, limit)
            samples = [SampleHit(ref_of(hit["entity"]), _cosine(hit), hit["entity"]["num_samples"]) for hit in found]
            hits, is_certain = best_of(samples, self.best_of, k + OVERFETCH, is_all=len(found) < limit)
            if is_certain or limit == _MAX_SAMPLES:
                break
            limit = min(_WIDEN * limit, _MAX_SAMPLES)
        # A version is there if and only if its mean row is, which is written last and deleted first.
        present = self._rows.present(generation, [hit.ref for hit in hits])
        return best([hit for hit in hits if hit.ref in present], k)

    def _search(
        self, collection: str, queries: NDArray[np.float32], visible: str, limit: int
    ) -> Sequence[Sequence[Any]]:
        found = self._client.search(
            collection,
            data=list(queries),
            anns_field="emb",
            filter=visible,
            limit=limit,
            output_fields=[*REF_FIELDS, "num_samples"],
            # The metric is the index's own. FLAT takes no notice of ef, the width of HNSW's search.
            search_params={"params": {"ef": max(64, 4 * limit)}},
            # Reads what this client wrote. Strong would wait 200 ms for the clock of a server.
            consistency_level="Session",
            timeout=self._timeout_s,
        )
        return [list(hits) for hits in found]


def _cosine(hit: Mapping[str, Any]) -> float:
    return min(1.0, max(-1.0, float(hit["distance"])))
