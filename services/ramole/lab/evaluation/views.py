"""A set of test prompts as one retriever sees them, and which adapters they may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ramole.core.bounds import MAX_EXPERTS
from ramole.core.composition import Composition, Expert
from ramole.mixture.plan import RequestMixture
from ramole.retrieval.doubt import Doubt
from ramole.retrieval.few import OwnScores

IntArray = npt.NDArray[np.int64]
LearnDoubt = Callable[[npt.NDArray[np.bool_]], Doubt | None]


@dataclass(frozen=True, slots=True)
class View:
    """n prompts and N adapters.

    Attributes:
        questions: example number of each prompt, [n].
        own: number of the adapter that was made for each prompt, [n].
        similarities: [n, N].
        allowed: whether a prompt may use an adapter, [n, N].
        learn_doubt: what a repository of some of the adapters [N] knows about doubt; it does not know the prompts.
        doubt: that of this repository; None = it cannot tell.
        own_scores: of each adapter, for doubt where adapters are few; empty = not known.
    """

    questions: IntArray
    own: IntArray
    similarities: npt.NDArray[np.float32]
    allowed: npt.NDArray[np.bool_]
    learn_doubt: LearnDoubt | None = None
    doubt: Doubt | None = None
    own_scores: Sequence[OwnScores | None] = ()

    def nearest(self, k: int) -> list[list[int]]:
        """The k most similar allowed adapters of each prompt, the best first; fewer where fewer are allowed."""
        masked = np.where(self.allowed, self.similarities, -np.inf)
        order = np.argsort(-masked, axis=1, kind="stable")[:, :k]
        return [[int(i) for i in row if allowed[i]] for row, allowed in zip(order, self.allowed, strict=True)]

    def pools(self) -> list[list[int]]:
        """All allowed adapters of each prompt."""
        return [np.flatnonzero(row).tolist() for row in self.allowed]

    def without_own(self) -> View:
        """Out of domain: each prompt's own adapter is hidden."""
        allowed = self.allowed.copy()
        allowed[np.arange(len(self.own)), self.own] = False
        return replace(self, allowed=allowed)

    def of_rows(self, rows: npt.NDArray[np.bool_] | IntArray) -> View:
        """Some of the prompts; the repository stays as it is."""
        return replace(
            self,
            questions=self.questions[rows],
            own=self.own[rows],
            similarities=self.similarities[rows],
            allowed=self.allowed[rows],
        )

    def within(self, adapters: npt.NDArray[np.bool_]) -> View:
        """The repository cut down to some adapters [N], and the prompts whose own adapter is among them."""
        return self.of_rows(adapters[self.own]).among(adapters)

    def among(self, adapters: npt.NDArray[np.bool_]) -> View:
        """The repository cut down to some adapters [N], and all prompts."""
        doubt = self.learn_doubt(adapters) if self.learn_doubt else None
        return replace(self, allowed=self.allowed & adapters, doubt=doubt)

    def compose(self, composition: Composition) -> list[RequestMixture]:
        """What a server would run for each prompt."""
        found = []
        sizes = self.allowed.sum(1).tolist()
        for near, similarities, size in zip(self.nearest(MAX_EXPERTS), self.similarities, sizes, strict=True):
            doubt, of_few = self._told([(i, float(similarities[i])) for i in near], size)
            found.append(request(composition.doubting(doubt, of_few=of_few), near[: composition.k], similarities))
        return found

    def _told(self, near: Sequence[tuple[int, float]], size: int) -> tuple[float | None, bool]:
        """The doubt of what is nearest among `size` adapters, and whether it is that of few; see `Calibration`."""
        doubt = self.doubt([similarity for _, similarity in near]) if self.doubt else None
        if doubt is not None or not near or not self.own_scores:
            return doubt, False
        own = self.own_scores[near[0][0]]
        return (None if own is None else own.doubt(near[0][1], size)), True


def request(
    composition: Composition, adapters: list[int], similarities: npt.NDArray[np.float32] | None = None
) -> RequestMixture:
    """The experts of one prompt; adapter number i is in slot i + 1."""
    experts = [Expert("", similarity=float(similarities[i]) if similarities is not None else 0.0) for i in adapters]
    return RequestMixture.build(composition, experts, [i + 1 for i in adapters])


def pool_request(adapters: list[int], weights: list[float] | None = None) -> RequestMixture:
    """Adapters that a rival may choose from; with `weights`, their weighted parameters (LoRAHub)."""
    n = len(adapters)
    return RequestMixture(
        slots=tuple(i + 1 for i in adapters),
        gates=tuple(weights or [0.0] * n),
        scales=(1.0,) * n,
        merges_parameters=weights is not None,
    )
