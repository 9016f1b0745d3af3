"""A candidate for the default: trust the nearest adapter as far as it seems to be the right one, else ask many.

With confidence g in the nearest adapter the weights of the k retrieved ones are g + (1 - g) / k for it and (1 - g) / k
for each other one. g is a logistic function of the nearest similarity and of its lead over the second, fitted on tasks
that training has seen, half of the time with their own adapter hidden; it knows no task and no adapter by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ramole.evaluation.views import View
from ramole.mixture.plan import RequestMixture

NUM_EXPERTS = 8


@dataclass(frozen=True, slots=True)
class Confidence:
    """A fitted g."""

    _model: Any

    @classmethod
    def fit(cls, view: View) -> Self:
        """Learns from prompts whose own adapters are in the view."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        found, hidden = features(view), features(view.without_own())
        labels = np.repeat([1, 0], [len(found), len(hidden)])
        return cls(make_pipeline(StandardScaler(), LogisticRegression()).fit(np.concatenate([found, hidden]), labels))

    def of(self, view: View) -> npt.NDArray[np.float64]:
        """g of each prompt, in [0, 1], [n]."""
        confidences: npt.NDArray[np.float64] = self._model.predict_proba(features(view))[:, 1]
        return confidences

    def compose(self, view: View, k: int) -> list[RequestMixture]:
        """The experts of each prompt."""
        return [
            weighted(near, [(1 - g) / len(near) + (g if place == 0 else 0.0) for place in range(len(near))])
            for near, g in zip(view.nearest(k), self.of(view).tolist(), strict=True)
        ]


def features(view: View) -> npt.NDArray[np.float64]:
    """The similarity of each prompt's nearest allowed adapter, and how far the second one is behind, [n, 2]."""
    allowed = np.where(view.allowed, view.similarities, -1.0)
    best = -np.sort(-allowed, axis=1)[:, :2]
    return np.stack([best[:, 0], best[:, 0] - best[:, -1]], axis=1).astype(np.float64)


def weighted(adapters: list[int], weights: list[float]) -> RequestMixture:
    """Outputs weighted exactly as given."""
    n = len(adapters)
    return RequestMixture(tuple(i + 1 for i in adapters), (0.0,) * n, tuple(weights), (1.0,) * n, is_explicit=True)
