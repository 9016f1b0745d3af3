"""Doubt: how likely it is that no adapter was made for a prompt, as the repository itself tells.

Every adapter comes with samples: prompts of which it is known whose they are. Seen from a sample the nearest adapters
have certain similarities, and others once its own adapter is hidden. A logistic function learns to tell the two
profiles apart, from nothing but what the index holds, and so knows how dense this repository is under this encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from ramole.retrieval.ranking import similarity

T = TypeVar("T")
Profile = tuple[list[float], list[float]]
"""The nearest NUM_NEAREST similarities of one sample, best first: with its own adapter, and without it."""
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
    def learn(cls, pairs: Iterable[Profile]) -> Self | None:
        """The doubt of a repository that looks like this from its samples; None where there are none to look from."""
        pairs = list(pairs)
        return cls.fit(*zip(*pairs, strict=True)) if pairs else None

    @classmethod
    def fit(cls, found: npt.ArrayLike, hidden: npt.ArrayLike) -> Self:
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


def asked(adapters: Sequence[T]) -> list[T]:
    """The adapters whose samples are looked from; the same ones for the same adapters in the same order."""
    return Random(len(adapters)).sample(list(adapters), min(len(adapters), NUM_ADAPTERS))


def profiles(samples: npt.NDArray[np.float32], others: Sequence[Sequence[float]], *, best_of: int) -> list[Profile]:
    """What the first samples of an adapter see; nothing where it has one sample only.

    Args:
        samples: all samples of the adapter, unit vectors, ``[m, dim]``.
        others: for each of the first samples its similarities to other adapters, best first.
        best_of: see `ranking`; 0 = the mean.
    """
    if len(samples) < 2:
        return []
    return [
        profile(seen, own_similarity(samples, i, best_of)) for i, seen in enumerate(others) if len(seen) >= NUM_NEAREST
    ]


def profile(others: Sequence[float], own: float) -> Profile:
    """What one sample sees.

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
    return float(similarity(samples[index : index + 1], np.delete(samples, index, axis=0), best_of)[0])


def _features(profile: npt.ArrayLike) -> Floats:
    values = np.asarray(profile, np.float64)
    return np.concatenate([values[:, :1], values[:, :-1] - values[:, 1:]], axis=1)
