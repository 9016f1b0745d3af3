"""What others may know of an engine that runs: numbers, all of which any thread may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ramole.executor.block_pool import BLOCK
from ramole.executor.recent import RecentMean
from ramole.executor.scheduler import Scheduler

_RECENT_S = 10.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What the device has, and what of it is in use.

    Attributes:
        num_slots: for adapters.
        num_pinned: slots of adapters that running sequences use.
        num_rows: sequences that can run at once.
        num_blocks: of KV memory.
        num_used_blocks: those that sequences hold.
        num_kept_blocks: those that nobody holds, kept for whoever begins alike.
        num_tokens: that sequences have in their blocks.
    """

    num_slots: int
    num_pinned: int
    num_rows: int
    num_blocks: int
    num_used_blocks: int
    num_kept_blocks: int
    num_tokens: int

    @property
    def kv_share(self) -> float:
        """Of the KV memory that sequences hold, 0 to 1."""
        return self.num_used_blocks / self.num_blocks


@dataclass(frozen=True, slots=True)
class Figures:
    """What has been counted since the start.

    Attributes:
        num_preempted: how often a sequence gave its blocks to an older one.
        num_asked: prompt tokens that were admitted, where prefixes are reused.
        num_reused: those of them whose keys and values were there.
    """

    num_preempted: int
    num_asked: int
    num_reused: int


class EngineView:
    """How full an engine is and what it has done. The engine itself keeps it up to date.

    Args:
        num_rows: sequences that can run at once.
        num_slots: the empty one included.
        clock: monotonic seconds.
    """

    def __init__(self, scheduler: Scheduler, *, num_rows: int, num_slots: int, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._num_rows = num_rows
        self._clock = clock
        self._slot_bytes = [0] * num_slots
        self._first_tokens = RecentMean(_RECENT_S)

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._scheduler.waiting)

    @property
    def running_tokens(self) -> int:
        """Tokens that the batch may come to, prompts included."""
        return self._scheduler.running_tokens

    @property
    def waiting_tokens(self) -> int:
        """Tokens that the queue may come to, prompts included."""
        return self._scheduler.waiting.num_tokens

    @property
    def num_held_up(self) -> int:
        """Sequences in the queue that would run if there were more rows or slots."""
        return min(self._scheduler.num_held_up, self.num_waiting)

    @property
    def num_busy_slots(self) -> int:
        """Slots whose adapters the batch uses."""
        return self._scheduler.slots.num_busy

    @property
    def first_token_s(self) -> float:
        """Mean seconds to the first token, of those that came in the last ten; 0 = none."""
        return self._first_tokens.mean(self._clock())

    @property
    def slot_counts(self) -> tuple[int, int, int]:
        """How often a sequence found an adapter in its slot, how often not, and how many made room for others."""
        slots = self._scheduler.slots
        return slots.num_hits, slots.num_misses, slots.num_evictions

    @property
    def num_resident(self) -> int:
        """Adapters on the device."""
        return len(self._scheduler.slots)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the adapters on the device as they were read; slots have one size."""
        return sum(self._slot_bytes)

    @property
    def waiting_by_tenant(self) -> dict[str, int]:
        """Sequences in the queue."""
        return self._scheduler.waiting.by_tenant

    @property
    def memory(self) -> Memory:
        """How full the device is."""
        slots, pool = self._scheduler.slots, self._scheduler.pool
        return Memory(
            num_slots=slots.num_slots - 1,
            num_pinned=slots.num_pinned,
            num_rows=self._num_rows,
            num_blocks=pool.num_blocks,
            num_used_blocks=pool.num_used,
            num_kept_blocks=pool.num_kept,
            num_tokens=sum(sequence.num_cached for sequence in tuple(self._scheduler.running)),
        )

    @property
    def figures(self) -> Figures:
        """What has been counted since the start."""
        scheduler = self._scheduler
        return Figures(scheduler.num_preempted, scheduler.num_asked, scheduler.num_reused)

    @property
    def max_tokens(self) -> int:
        """Tokens that the KV memory holds."""
        return BLOCK * self._scheduler.pool.num_blocks

    def holds(self, digest: str) -> bool:
        """Whether an adapter is on the device."""
        return digest in self._scheduler.slots
