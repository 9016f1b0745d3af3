"""A set of test prompts as one retriever sees them, and which adapters they may use."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ramole.core.composition import Composition, Expert
from ramole.mixture.plan import RequestMixture

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class View:
    """n prompts and N adapters.

    Attributes:
        questions: example number of each prompt, [n].
        own: number of the adapter that was made for each prompt, [n].
        similarities: [n, N].
        allowed: whether a prompt may use an adapter, [n, N].
    """

    questions: IntArray
    own: IntArray
    similarities: npt.NDArray[np.float32]
    allowed: npt.NDArray[np.bool_]

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

    def with_own(self) -> View:
        """Nobody's own adapter is hidden."""
        allowed = self.allowed.copy()
        allowed[np.arange(len(self.own)), self.own] = True
        return replace(self, allowed=allowed)

    def of_tasks(self, tasks: npt.NDArray[np.bool_]) -> View:
        """The prompts of some tasks [N]; the repository stays as it is."""
        rows = tasks[self.own]
        return View(self.questions[rows], self.own[rows], self.similarities[rows], self.allowed[rows])

    def within(self, adapters: npt.NDArray[np.bool_]) -> View:
        """The repository cut down to some adapters [N], and the prompts whose own adapter is among them."""
        rows = adapters[self.own]
        return View(self.questions[rows], self.own[rows], self.similarities[rows], self.allowed[rows] & adapters)

    def compose(self, composition: Composition) -> list[RequestMixture]:
        """What a server would run for each prompt."""
        return [request(composition, row, self.similarities[i]) for i, row in enumerate(self.nearest(composition.k))]


def request(
    composition: Composition, adapters: list[int], similarities: npt.NDArray[np.float32] | None = None
) -> RequestMixture:
    """The experts of one prompt; adapter number i is in slot i + 1."""
    experts = [Expert("", similarity=float(similarities[i]) if similarities is not None else 0.0) for i in adapters]
    return RequestMixture.build(composition, experts, [i + 1 for i in adapters])


def pool_request(adapters: list[int], weights: list[float] | None = None) -> RequestMixture:
    """Adapters that a peer may choose from; with `weights`, their weighted parameters (LoRAHub)."""
    n = len(adapters)
    return RequestMixture(
        slots=tuple(i + 1 for i in adapters),
        logits=(0.0,) * n,
        weights=tuple(weights or [0.0] * n),
        scales=(1.0,) * n,
        is_explicit=weights is not None,
        merges_parameters=weights is not None,
    )
