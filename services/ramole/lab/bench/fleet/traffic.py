"""Who asks for what: adapters by Zipf's law, their neighbours beside them, and new ones in the place of old ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CLUSTER = 8
"""Adapters that retrieval finds together."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request.

    Attributes:
        at_s: when it arrives.
        wanted: its adapters, the most similar first.
        work: seconds of its answer in an empty replica.
        gateway: which one it comes to.
    """

    at_s: float
    wanted: tuple[str, ...]
    work: float
    gateway: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """An endless stream of requests.

    Attributes:
        num_adapters: of the repository.
        alpha: exponent of Zipf's law.
        k: adapters of one request.
        work_s: mean of an answer; exponential.
        churn_per_s: adapters that are replaced by new ones, wherever in the order of popularity.
        num_gateways: that share the requests.
    """

    num_adapters: int
    alpha: float = 1.0
    k: int = 3
    work_s: float = 1.0
    churn_per_s: float = 2.0
    num_gateways: int = 4

    def arrivals(self, rate_per_s: float, seed: int, *, peak: float = 1.0, period_s: float = 1.0) -> Iterator[Arrival]:
        """Poisson; between `rate_per_s` and `peak` times that, as a sine of this period says."""
        rng = np.random.default_rng(seed)
        shares = np.cumsum(np.arange(1, self.num_adapters + 1) ** -self.alpha)
        shares /= shares[-1]
        place_of = rng.permutation(self.num_adapters)  # whose neighbours are popular is chance
        rank_at = np.argsort(place_of)
        name_of: dict[int, str] = {}
        now_s, next_s, num_new = 0.0, 0.0, 0
        while True:
            ranks = np.searchsorted(shares, rng.random(4096))
            gaps, works = rng.exponential(1.0, 4096), rng.exponential(self.work_s, 4096)
            gateways = rng.integers(0, self.num_gateways, 4096)
            picks = rng.random((4096, _CLUSTER)).argsort(axis=1)
            for rank, gap, work, gateway, pick in zip(
                ranks.tolist(), gaps.tolist(), works.tolist(), gateways.tolist(), picks, strict=True
            ):
                swing = (1 - np.cos(2 * np.pi * now_s / period_s)) / 2 if peak > 1 else 0.0
                now_s += gap / (rate_per_s * (1 + (peak - 1) * swing))
                while self.churn_per_s and next_s <= now_s:
                    next_s += 1 / self.churn_per_s
                    num_new += 1
                    name_of[int(rng.integers(0, min(self.num_adapters, 1000)))] = f"new-{num_new}"
                place = int(place_of[rank])
                first = place // _CLUSTER * _CLUSTER
                others = [first + int(i) for i in pick if first + i != place and first + i < self.num_adapters]
                wanted = [rank, *(int(rank_at[other]) for other in others[: self.k - 1])]
                yield Arrival(now_s, tuple(name_of.get(each) or f"a{each}" for each in wanted), work, gateway)
