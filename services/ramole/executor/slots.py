"""Memory: which adapter sits in which device slot. Ints only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class SlotTable:
    """adapter digest <-> slot, with reference counts and least-recently-used eviction. Slot 0 is never given out.

    `acquire` is all or nothing: a request either holds every slot it needs or none.
    """

    def __init__(self, num_slots: int) -> None:
        """`num_slots` counts the empty slot 0."""
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, 0, -1))
        self._slot_of: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._refs: dict[str, int] = {}
        self.num_hits = self.num_misses = self.num_evictions = 0

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests on the device, least recently used first."""
        return tuple(self._slot_of)

    @property
    def num_pinned(self) -> int:
        """Adapters that running requests use."""
        return len(self._refs)

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def num_busy(self) -> int:
        """Slots whose adapters running requests use."""
        return len(self._refs)

    def __contains__(self, digest: str) -> bool:
        return digest in self._slot_of

    def slot(self, digest: str) -> int:
        """The slot of a resident adapter."""
        return self._slot_of[digest]

    def refs(self, digest: str) -> int:
        """Running requests that use the adapter."""
        return self._refs.get(digest, 0)

    def can_acquire(self, digests: Sequence[str]) -> bool:
        """Whether all of `digests` can be on the device at once, next to what is in use."""
        missing = [digest for digest in digests if digest not in self]
        idle = sum(1 for digest in self._slot_of if not self.refs(digest) and digest not in digests)
        return len(missing) <= len(self._free) + idle

    def acquire(self, digests: Sequence[str]) -> list[tuple[str, int]]:
        """Takes one reference on each of the unique `digests`; evicts idle adapters as needed.

        Returns:
            (digest, slot) of those that were not resident: their weights must be written before the next step.
        """
        if not self.can_acquire(digests):
            raise RuntimeError("not enough slots: ask can_acquire first")
        for digest in digests:
            self._refs[digest] = self.refs(digest) + 1
            if digest in self:
                self._slot_of.move_to_end(digest)
        placed = []
        for digest in digests:
            if digest not in self:
                self._slot_of[digest] = self._free.pop() if self._free else self._evict()
                placed.append((digest, self._slot_of[digest]))
        self.num_misses += len(placed)
        self.num_hits += len(digests) - len(placed)
        return placed

    def release(self, digests: Iterable[str]) -> None:
        """Gives the references of one `acquire` back. The adapters stay resident until their slots are needed."""
        for digest in digests:
            refs = self._refs[digest] - 1
            if refs:
                self._refs[digest] = refs
            else:
                del self._refs[digest]

    def drop(self, digest: str) -> int | None:
        """Frees the slot of an idle resident adapter and returns it; None when it is in use or not resident."""
        if digest not in self or self.refs(digest):
            return None
        slot = self._slot_of.pop(digest)
        self._free.append(slot)
        return slot

    def _evict(self) -> int:
        digest = next(digest for digest in self._slot_of if not self.refs(digest))
        self.num_evictions += 1
        return self._slot_of.pop(digest)
