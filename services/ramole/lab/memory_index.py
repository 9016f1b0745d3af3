"""The adapters of a repository by their samples, in memory: what the server finds through Milvus, found with numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ramole.retrieval.doubt import MIN_ADAPTERS, NUM_SAMPLES, Doubt, Profile, asked, profiles
from ramole.retrieval.few import OwnScores
from ramole.retrieval.vectors import unit_mean

Floats = npt.NDArray[np.float32]
Embed = Callable[..., Floats]
"""n texts -> unit vectors [n, dim]; the tokens of n answers so far may come behind the texts."""


def open_encoder(name: str, *, retriever: str = "", base_model: str = "") -> Embed:
    """The sentence encoder as the embedding service runs it, see `Encoder.load`."""
    import torch

    from ramole.core.settings import PAPER_INSTRUCTION
    from ramole.embedding.encoder import Asked, Encoder

    encoder = Encoder.load(
        name,
        instruction=PAPER_INSTRUCTION,
        threads=torch.get_num_threads(),
        retriever=retriever,
        base_model=base_model,
    )

    def embed(texts: Sequence[str], answers: Sequence[Sequence[int]] = ()) -> Floats:
        return encoder.encode_asked(
            [Asked(text, tuple(answer)) for text, answer in zip(texts, answers or [()] * len(texts), strict=True)]
        )

    return embed


@dataclass(frozen=True, slots=True)
class MemoryIndex:
    """N adapters.

    Attributes:
        samples: unit vectors of each adapter's samples, N x [m, dim].
        means: one unit vector for each adapter, [N, dim].
    """

    embed: Embed
    samples: tuple[Floats, ...]
    means: Floats

    @classmethod
    def build(cls, embed: Embed, samples: Sequence[Sequence[str]]) -> Self:
        """Embeds every adapter's samples."""
        vectors = embed([text for group in samples for text in group])
        groups = np.split(vectors, np.cumsum([len(group) for group in samples])[:-1])
        return cls(embed, tuple(groups), np.stack([unit_mean(group, field="samples") for group in groups]))

    def similarities(self, prompts: Sequence[str], answers: Sequence[Sequence[int]] = ()) -> Floats:
        """Cosine of each prompt with each adapter, [n, N]; behind `answers` so far (tokens), if there are some."""
        vectors = self.embed(prompts, answers) if answers else self.embed(prompts)
        return vectors @ self.means.T

    def nearest(self, prompts: Sequence[str]) -> npt.NDArray[np.int64]:
        """The numbers of all adapters, the most similar first, [n, N]."""
        return np.argsort(-self.similarities(prompts), axis=1, kind="stable")

    def doubt(self, adapters: npt.NDArray[np.bool_]) -> Doubt | None:
        """What an index of some of the adapters [N] learns from their samples, as `Calibration` does."""
        pool = np.flatnonzero(adapters)
        if len(pool) < MIN_ADAPTERS:
            return None
        return Doubt.learn(pair for adapter in asked(pool.tolist()) for pair in self._profiles(adapter, pool))

    def own_scores(self) -> list[OwnScores | None]:
        """Of each adapter, for doubt where adapters are few."""
        return [OwnScores.of(samples, 0) for samples in self.samples]

    def _profiles(self, adapter: int, pool: npt.NDArray[np.int64]) -> list[Profile]:
        samples = self.samples[adapter]
        others = -np.sort(-(samples[:NUM_SAMPLES] @ self.means[pool[pool != adapter]].T), axis=1)
        return profiles(samples, others.tolist(), best_of=0)

    def task_similarities(self) -> Floats:
        """Of each task's samples, on average, to each adapter, [N, N]."""
        return np.stack([group.mean(0) for group in self.samples]) @ self.means.T
