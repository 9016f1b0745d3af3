"""Zero-shot retrieval as the server does it: instruction prefix, mean of the samples, cosine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramole.core.settings import PAPER_INSTRUCTION

FloatArray = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], FloatArray]
"""n texts -> unit vectors [n, dim]."""


def minilm() -> Encode:
    """The encoder that the embedding service starts with by default."""
    import torch

    from ramole.embedding.encoder import MINILM, Encoder

    encoder = Encoder.load(MINILM, instruction=PAPER_INSTRUCTION, threads=torch.get_num_threads())
    return lambda texts: encoder.encode(list(texts))


@dataclass(frozen=True, slots=True)
class Retriever:
    """Finds adapters by their samples.

    Attributes:
        encode: the sentence encoder.
        centroids: one unit vector for each adapter, [num_adapters, dim].
    """

    encode: Encode
    centroids: FloatArray

    @classmethod
    def build(cls, encode: Encode, samples: Sequence[Sequence[str]]) -> Retriever:
        """One adapter for each group of samples."""
        means = np.stack([encode(group).mean(0) for group in samples])
        return cls(encode, means / np.linalg.norm(means, axis=1, keepdims=True))

    def similarities(self, prompts: Sequence[str]) -> FloatArray:
        """Cosine of each prompt with each adapter, [n, num_adapters]."""
        return self.encode(prompts) @ self.centroids.T


def hit_rate(similarities: FloatArray, own: int, *, within: int) -> float:
    """How often the adapter number `own` is among the `within` most similar ones."""
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :within]
    return float((nearest == own).any(1).mean())
