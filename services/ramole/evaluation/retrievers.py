"""What an evaluation asks of a retriever, and the plain one: mean of the samples, cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ramole.zoo.retrieval import Retriever as PlainRetriever

if TYPE_CHECKING:
    from ramole.evaluation.subject import Subject

Floats = npt.NDArray[np.float32]


class Retriever(Protocol):
    """Knows all adapters of a subject, in their order."""

    @property
    def centroids(self) -> Floats:
        """One unit vector for each adapter, [N, dim]."""

    def encode(self, texts: list[str], /) -> Floats:
        """Unit vectors, [n, dim]."""

    def similarities(self, prompts: list[str]) -> Floats:
        """Of each prompt to each adapter, [n, N]."""


def plain_retriever(encoder: str, subject: Subject) -> Retriever:
    """Retrieval as the server starts with it: instruction prefix, sentence encoder, cosine with the mean sample."""
    import torch

    from ramole.core.settings import PAPER_INSTRUCTION
    from ramole.embedding.encoder import Encoder

    loaded = Encoder.load(encoder, instruction=PAPER_INSTRUCTION, threads=torch.get_num_threads())
    return PlainRetriever.build(lambda texts: loaded.encode(list(texts)), [entry.samples for entry in subject.entries])
