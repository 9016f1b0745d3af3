"""What is compared: the policy that serves, and three that are not ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ramole.transport.affinity import Placement, Report
from ramole.transport.ring import Ring

Loads = Callable[[str], float]
"""Requests at a replica, as it is at this moment: what no caller knows in a real fleet."""


class Chooser(Protocol):
    """One gateway's choice of replicas."""

    def update(self, reports: Mapping[str, Report]) -> None:
        """The replicas that there are, each with its newest report."""

    def choose(self, wanted: Sequence[str]) -> str:
        """The replica of a request."""

    def send(self, replica: str, digests: Sequence[str]) -> None:
        """A request goes there."""

    def finish(self, replica: str) -> None:
        """It has ended."""


class RandomChoice:
    """Any replica."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names: list[str] = []

    def update(self, reports: Mapping[str, Report]) -> None:
        """Keeps the names."""
        self._names = sorted(reports)

    def choose(self, wanted: Sequence[str]) -> str:
        """At random."""
        return self._random.choice(self._names)

    def send(self, replica: str, digests: Sequence[str]) -> None:
        """Nothing to remember."""

    def finish(self, replica: str) -> None:
        """Nothing to forget."""


class PowerOfTwo(RandomChoice):
    """The less busy of two random ones, by loads that are exact."""

    def __init__(self, seed: int, loads: Loads) -> None:
        super().__init__(seed)
        self._loads = loads

    def choose(self, wanted: Sequence[str]) -> str:
        """As Ray Serve does, after asking both."""
        two = self._random.sample(self._names, min(2, len(self._names)))
        return min(two, key=self._loads)


class BoundedHashing(RandomChoice):
    """The first on the ring with less than `bound` times the mean load, by loads that are exact.

    Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018), by the first adapter.
    """

    def __init__(self, seed: int, loads: Loads, bound: float = 1.25) -> None:
        super().__init__(seed)
        self._loads = loads
        self._bound = bound
        self._ring = Ring(())

    def update(self, reports: Mapping[str, Report]) -> None:
        """Keeps the ring."""
        if sorted(reports) != self._names:
            super().update(reports)
            self._ring = Ring(reports)

    def choose(self, wanted: Sequence[str]) -> str:
        """By the first adapter."""
        most = -(-self._bound * (sum(map(self._loads, self._names)) + 1) // len(self._names))
        return next(name for name in self._ring.order(wanted[0]) if self._loads(name) < most)


OURS = "ramole"

Make = Callable[[int, Loads, Callable[[], float], float], Chooser]
"""By a seed, the exact loads, a clock, and how long a replica is believed to hold what was sent to it."""


def contestants() -> dict[str, Make]:
    """By name; each gateway has one of its own."""
    return {
        OURS: lambda _, __, clock, ttl_s: Placement(ttl_s, clock),
        "power_of_two": lambda seed, loads, *_: PowerOfTwo(seed, loads),
        "bounded_hashing": lambda seed, loads, *_: BoundedHashing(seed, loads),
        "random": lambda seed, *_: RandomChoice(seed),
    }
