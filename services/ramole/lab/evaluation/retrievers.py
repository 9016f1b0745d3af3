"""A retriever as an evaluation uses it: vectors of all samples, and their means as the server searches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.retrieval import Floats, Scoring, bm25_scores, compare, score, tfidf_scores
from ramole.retrieval.doubt import MIN_ADAPTERS, NUM_ADAPTERS, NUM_SAMPLES, Doubt, own_similarity, profiles

if TYPE_CHECKING:
    from ramole.lab.evaluation.subject import Subject

Encode = Callable[[list[str]], npt.NDArray[np.float32]]
"""n texts -> unit vectors [n, dim]."""


@dataclass(frozen=True, slots=True)
class Retriever:
    """Knows all adapters of a subject, in their order.

    Attributes:
        samples: unit vectors of each adapter's samples, N x [m, dim].
        centroids: one unit vector for each adapter, [N, dim].
    """

    encode: Encode
    samples: tuple[npt.NDArray[np.float32], ...]
    centroids: npt.NDArray[np.float32]

    @classmethod
    def build(cls, encode: Encode, samples: Sequence[Sequence[str]]) -> Self:
        """Embeds every adapter's samples."""
        vectors = encode([text for group in samples for text in group])
        groups = np.split(vectors, np.cumsum([len(group) for group in samples])[:-1])
        means = np.stack([group.mean(0) for group in groups])
        return cls(encode, tuple(groups), means / np.linalg.norm(means, axis=1, keepdims=True))

    def similarities(self, prompts: list[str]) -> npt.NDArray[np.float32]:
        """Cosine of each prompt with each adapter, [n, N]."""
        return self.encode(prompts) @ self.centroids.T

    def doubt(self, adapters: npt.NDArray[np.bool_]) -> Doubt | None:
        """What an index of some of the adapters [N] learns from their samples, as `VectorIndex.calibrate`."""
        pool = np.flatnonzero(adapters)
        if len(pool) < MIN_ADAPTERS:
            return None
        pairs = []
        for adapter in Random(len(pool)).sample(pool.tolist(), min(len(pool), NUM_ADAPTERS)):
            samples = self.samples[adapter]
            others = -np.sort(-(samples @ self.centroids[pool[pool != adapter]].T), axis=1)
            for i in range(min(len(samples), NUM_SAMPLES) if len(samples) > 1 else 0):
                pairs.append(profiles(others[i].tolist(), own_similarity(samples, i, 0)))
        return Doubt.fit(*zip(*pairs, strict=True)) if pairs else None

    def task_similarities(self) -> npt.NDArray[np.float32]:
        """Of each task's samples, on average, to each adapter, [N, N]."""
        return np.stack([group.mean(0) for group in self.samples]) @ self.centroids.T


def open_retriever(encoder: str, subject: Subject, *, trained: str = "") -> Retriever:
    """Retrieval as the server does it: instruction prefix, sentence encoder, mean of the samples.

    Args:
        trained: folder of a trained retriever; '' = the encoder as it is.
    """
    import torch

    from ramole.core.settings import PAPER_INSTRUCTION
    from ramole.embedding.encoder import Encoder

    loaded = Encoder.load(
        encoder,
        instruction=PAPER_INSTRUCTION,
        threads=torch.get_num_threads(),
        retriever=trained,
        base_model=str(subject.base),
    )
    return Retriever.build(loaded.encode, [entry.samples for entry in subject.entries])


def retrieval_figures(
    subject: Subject,
    retrievers: dict[str, Retriever],
    prompts: list[str],
    own: npt.NDArray[np.int64],
    is_seen: npt.NDArray[np.bool_],
) -> dict[str, dict[str, dict[str, object]]]:
    """Every retriever under every scoring, and two that count words, see `retrieval.compare`.

    Args:
        is_seen: whether retriever training has seen an adapter's task, [N].
    """
    groups = [entry.samples for entry in subject.entries]
    scores: dict[str, Floats] = {}
    for name, retriever in retrievers.items():
        vectors = retriever.encode(prompts)
        for scoring in Scoring:
            label = name if scoring is Scoring.MEAN else f"{name} {scoring}"
            scores[label] = score(vectors, retriever.samples, scoring)
    scores["bm25"] = bm25_scores(prompts, groups)
    scores["tfidf"] = tfidf_scores(prompts, groups)
    return compare(
        scores,
        own,
        is_seen=is_seen,
        clusters=[entry.cluster for entry in subject.entries],
        reference=next(iter(retrievers)),
    )
