"""From the rows that Milvus found to the answer."""

from __future__ import annotations

from collections.abc import Iterable

from ramole.retrieval.values import Hit

OVERFETCH = 8
"""Rows to ask for beyond k: a row of an older version can stand beside the new one for a moment, and is dropped."""


def best(hits: Iterable[Hit], k: int) -> list[Hit]:
    """The k most similar of the newest versions; equal similarities in the order of their names."""
    newest: dict[tuple[str, str], Hit] = {}
    for hit in sorted(hits, key=lambda hit: hit.ref.version):
        newest[hit.ref.tenant, hit.ref.name] = hit
    return sorted(newest.values(), key=lambda hit: (-hit.similarity, str(hit.ref)))[:k]
