"""From the rows that Milvus found to the answer. Three scores of an adapter, all cosines:

mean: of prompt and mean sample (LoraRetriever); best of 1 (max): of prompt and nearest sample; best of j: mean over the
j nearest samples, of all if there are fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramole.core.names import AdapterRef
from ramole.retrieval.values import Hit

OVERFETCH = 8
"""Rows to ask for beyond k: a row of an older version can stand beside the new one for a moment, and is dropped."""


def similarity(
    prompts: npt.NDArray[np.floating], samples: npt.NDArray[np.floating], best_of: int
) -> npt.NDArray[np.floating]:
    """The score of one adapter for n prompts, [n], from all its samples.

    Args:
        prompts: unit vectors, [n, dim].
        samples: unit vectors, [m, dim].
        best_of: j, or 0 = the mean.
    """
    scores: npt.NDArray[np.floating]
    if best_of:
        scores = np.sort(prompts @ samples.T, axis=1)[:, -best_of:].mean(1)
    else:
        mean = samples.mean(0)
        scores = prompts @ mean / max(float(np.linalg.norm(mean)), 1e-9)
    return scores


def best(hits: Iterable[Hit], k: int) -> list[Hit]:
    """The k most similar of the newest versions; equal similarities in the order of their names."""
    newest: dict[tuple[str, str], Hit] = {}
    for hit in sorted(hits, key=lambda hit: hit.ref.version):
        newest[hit.ref.tenant, hit.ref.name] = hit
    return sorted(newest.values(), key=_order)[:k]


@dataclass(frozen=True, slots=True)
class SampleHit:
    """One sample vector that was found. `num_samples`: how many its adapter has."""

    ref: AdapterRef
    similarity: float
    num_samples: int


def best_of(samples: Sequence[SampleHit], j: int, k: int, *, is_all: bool) -> tuple[list[Hit], bool]:
    """Scores adapters by the mean of their j nearest samples; returns the k best, and whether that is certain.

    Fagin's threshold algorithm: what was not found is at most as near as the last sample that was. An adapter with
    unseen samples gets its highest possible score, and the order is certain once the first k have none.

    Args:
        samples: the nearest ones, nearest first.
        is_all: whether there are no others.
    """
    floor = samples[-1].similarity if samples else -1.0
    seen: dict[AdapterRef, list[SampleHit]] = {}
    for sample in samples:
        seen.setdefault(sample.ref, []).append(sample)
    hits, exact = [], set()
    for ref, own in seen.items():
        size = min(j, len(own) if is_all else own[0].num_samples)
        found = [sample.similarity for sample in own[:size]]
        hits.append(Hit(ref, (sum(found) + (size - len(found)) * floor) / size))
        if len(found) == size:
            exact.add(ref)
    top = sorted(hits, key=_order)[:k]
    is_certain = is_all or (len(top) == k and top[-1].similarity > floor and all(hit.ref in exact for hit in top))
    return top, is_certain


def _order(hit: Hit) -> tuple[float, str]:
    return -hit.similarity, str(hit.ref)
