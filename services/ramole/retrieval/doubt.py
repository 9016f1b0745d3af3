"""Doubt: how likely it is that no adapter was made for a prompt, as the repository itself tells.

Every adapter comes with samples: prompts of which it is known whose they are. Seen from a sample the nearest adapters
have certain similarities, and others once its own adapter is hidden. A logistic function learns to tell the two
profiles apart, from nothing but what the index holds, and so knows how dense this repository is under this encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUM_NEAREST = 8
"""Similarities of a profile."""
MIN_ADAPTERS = 32
"""Fewer tell too little of how a repository looks."""
NUM_ADAPTERS, NUM_SAMPLES = 64, 8
"""How many adapters are asked, by one search each, and how many samples of each."""
KNOWN_SHARE = 0.75
"""Of the prompts that come, how many somebody is assumed to have made an adapter for."""

_FREEDOM = 1e4


@dataclass(frozen=True, slots=True)
class Doubt:
    """A fitted function of the nearest similarity and the gaps behind it: weights ``[NUM_NEAREST]`` and a bias."""

    weights: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, found: npt.ArrayLike, hidden: npt.ArrayLike) -> Doubt:
        """Learns from profiles ``[n, NUM_NEAREST]``, best first, with the own adapter in them and without it."""
        from sklearn.linear_model import LogisticRegression

        features = np.concatenate([_features(found), _features(hidden)])
        is_found = np.repeat([1, 0], [len(np.asarray(found)), len(np.asarray(hidden))])
        # The more profiles, the less restraint: as if each brought its own share.
        fitted = LogisticRegression(C=_FREEDOM / len(features), max_iter=1000).fit(features, is_found)
        bias = float(fitted.intercept_[0]) + math.log(KNOWN_SHARE / (1 - KNOWN_SHARE))
        return cls(tuple(float(weight) for weight in fitted.coef_[0]), bias)

    def __call__(self, similarities: Sequence[float]) -> float | None:
        """In [0, 1], for one prompt's nearest adapters, best first; None where there are fewer than NUM_NEAREST."""
        if len(similarities) < NUM_NEAREST:
            return None
        score = float(_features([similarities[:NUM_NEAREST]])[0] @ np.array(self.weights)) + self.bias
        return 1 / (1 + math.exp(min(score, 700.0)))


def profiles(others: Sequence[float], own: float) -> tuple[list[float], list[float]]:
    """The nearest NUM_NEAREST similarities of one sample, with its own adapter and without it.

    Args:
        others: of the nearest other adapters, best first, at least NUM_NEAREST.
        own: of its own adapter as it is without this sample.
    """
    hidden = list(others[:NUM_NEAREST])
    return sorted([own, *hidden], reverse=True)[:NUM_NEAREST], hidden


def own_similarity(samples: npt.NDArray[np.float32], index: int, best_of: int) -> float:
    """What a sample scores with its own adapter when it is left out of it.

    Args:
        samples: unit vectors, ``[m, dim]``, m > 1.
        best_of: see `ranking`; 0 = the mean.
    """
    rest = np.delete(samples, index, axis=0)
    if best_of:
        return float(np.sort(rest @ samples[index])[-best_of:].mean())
    mean = rest.mean(0)
    return float(mean @ samples[index] / max(float(np.linalg.norm(mean)), 1e-9))


def _features(profile: npt.ArrayLike) -> Floats:
    values = np.asarray(profile, np.float64)
    return np.concatenate([values[:, :1], values[:, :-1] - values[:, 1:]], axis=1)
