"""How many replicas of a service there should be, from what they record of their work.

Pure: knows no Ray and reads no clock. `serve_scaling.py` feeds it in a cluster, `ramole bench fleet` in a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ramole.core.settings import ExecutorScalingSettings, ScalingSettings

_SETTLE = 0.75
"""Fewer replicas must fit below this part of the target: what has just made them more does not make them fewer."""

Record = Mapping[str, float]
"""What one replica records, by name."""


@dataclass(frozen=True, slots=True)
class Load:
    """The work of one replica.

    Attributes:
        demand: what runs and what waits there, 1 = as much as it can do at once.
        queued: requests of these that wait because it is full.
        first_token_s: recent mean; 0 = there was none lately.
    """

    demand: float
    queued: float = 0.0
    first_token_s: float = 0.0


def call_load(record: Record, calls: int) -> Load:
    """Of a service that works on all its calls at once, and can do `calls` of them."""
    return Load(record["inflight"] / calls)


def executor_load(record: Record) -> Load:
    """Tokens against the memory for them; or, if that is more, rows or slots in use, and those who wait for a row."""
    tokens = (record["running_tokens"] + record["queued_tokens"]) / record["max_tokens"]
    places = max(record["running"] / record["max_running"], record["slots"] / record["max_slots"])
    waiting = record["queued"] / record["max_running"]
    return Load(max(tokens, places + waiting), record["queued"], record["first_token_s"])


@dataclass(frozen=True, slots=True)
class Window:
    """The least, or the most, that was seen within a time. Holds no more entries than there are different numbers.

    Attributes:
        entries: (second, number), oldest first, each beating all that came before it no longer.
    """

    entries: tuple[tuple[float, int], ...] = ()

    def seen(self, now_s: float, number: int, for_s: float, beats: Callable[[int, int], bool]) -> Window:
        """With one more number; what is older than `for_s` no longer counts."""
        kept = [entry for entry in self.entries if entry[0] > now_s - for_s]
        while kept and not beats(kept[-1][1], number):
            kept.pop()
        return Window((*kept, (now_s, number)))

    @property
    def best(self) -> int:
        """The number that beats all others."""
        return self.entries[0][1]


@dataclass(frozen=True, slots=True)
class History:
    """What the policy remembers between two decisions.

    Attributes:
        since_s: when the number last changed; both windows began then, which is the cool-down.
        busy_s: when anybody was last seen to work or to wait.
        least: of replicas that were needed.
        most: of replicas that were not too many.
    """

    since_s: float
    busy_s: float
    least: Window = Window()
    most: Window = Window()


@dataclass(frozen=True, slots=True)
class Fleet:
    """What there is of a service now.

    Attributes:
        target: replicas that are asked for.
        ready: replicas that run; fewer than `target` while some start.
        loads: of those that have recorded anything yet.
        waiting: callers that have not been told a replica yet. Where there are some, that is a matter of a moment.
    """

    target: int
    ready: int
    loads: Sequence[Load]
    waiting: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """More as soon as more has been needed for `up_s`, fewer when fewer has been enough for `down_s`.

    Attributes:
        least, most: bounds.
        target: mean demand above which there are more.
        idle_s: how long nobody must have asked before the last one goes; counts if `least` is 0.
        first_token_s: mean time to the first token above which a queue is reason for one more; 0 = never.
    """

    least: int
    most: int
    target: float
    up_s: float
    down_s: float
    idle_s: float = 0.0
    first_token_s: float = 0.0

    @classmethod
    def of(cls, settings: ScalingSettings) -> ScalingPolicy:
        """As the settings say."""
        extra = {}
        if isinstance(settings, ExecutorScalingSettings):
            extra = {"idle_s": settings.idle_s, "first_token_s": settings.first_token_s}
        return cls(
            least=settings.min,
            most=settings.max,
            target=settings.target,
            up_s=settings.up_s,
            down_s=settings.down_s,
            **extra,
        )

    def decide(self, history: History | None, now_s: float, fleet: Fleet) -> tuple[int, History]:
        """How many replicas there should be, and what to remember.

        Args:
            history: of the last decision; None = this is the first.
            now_s: seconds of any clock that does not go back.
        """
        history = history or History(now_s, now_s)
        demand = sum(load.demand for load in fleet.loads)
        is_queued = any(load.queued >= 1 for load in fleet.loads) or (fleet.waiting > 0 and not fleet.ready)
        # Nobody knows what those do that have recorded nothing yet.
        is_known = 0 < fleet.ready <= len(fleet.loads)
        is_busy = is_queued or demand > 0 or fleet.waiting > 0 or not is_known
        busy_s = now_s if is_busy else history.busy_s
        needed = self._within(self._needed(fleet, demand, is_queued))
        enough = self._within(max(1, _ceil(demand / self.target / _SETTLE)))
        if is_queued or not is_known:
            enough = max(enough, fleet.target)
        least = history.least.seen(now_s, needed, self.up_s, lambda kept, new: kept < new)
        most = history.most.seen(now_s, enough, self.down_s, lambda kept, new: kept > new)
        number, age_s = fleet.target, now_s - history.since_s
        if fleet.target == 0 and fleet.waiting > 0:
            number = max(1, needed)
        elif age_s >= self.up_s and least.best > fleet.target:
            number = least.best
        elif self.least == 0 and now_s - busy_s >= self.idle_s:
            number = 0
        elif age_s >= self.down_s and most.best < fleet.target:
            number = most.best
        number = self._within(number)
        if number != fleet.target:
            return number, History(now_s, busy_s)
        return number, History(history.since_s, busy_s, least, most)

    def _needed(self, fleet: Fleet, demand: float, is_queued: bool) -> int:
        by_demand = _ceil(demand / self.target)
        is_slow = is_queued and 0 < self.first_token_s < max((load.first_token_s for load in fleet.loads), default=0.0)
        return max(by_demand, fleet.ready + 1) if is_slow else by_demand

    def _within(self, number: int) -> int:
        return min(max(number, self.least), self.most)


def _ceil(number: float) -> int:
    """Rounding errors make no replica."""
    return math.ceil(round(number, 9))
