"""Memory: which block of KV memory is whose, and which are kept for whoever begins alike. Ints only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from ramole.executor.prefix import Name

BLOCK = 16
"""Tokens of a block. Half of the last is empty on average; smaller ones cost time (docs/log/2026-11-29-paged-kv.md)."""

NULL, SINK = 0, 1
"""Two blocks that nobody gets: one of zeros, that tables are filled up with; one that is written and never read."""
_NUM_SPECIAL = 2


def blocks_for(num_tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // BLOCK)


class BlockPool:
    """Blocks with reference counts. One that is full can be kept under a name when its last user has left it.

    A block is zero when it is given out: what is freed, by its last user or to make room, is listed in `take_freed`.

    Attributes:
        num_blocks: that sequences can have.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks + _NUM_SPECIAL - 1, _NUM_SPECIAL - 1, -1))
        self._refs: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # kept and nobody's, least recently used first
        self._kept: dict[Name, int] = {}
        self._names: dict[int, tuple[Name, tuple[str, ...]]] = {}
        self._freed: list[int] = []

    @property
    def num_free(self) -> int:
        """Blocks that can be had, those that are only kept included."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        return len(self._refs)

    @property
    def num_kept(self) -> int:
        """Blocks that are nobody's, and kept."""
        return len(self._idle)

    def take(self, count: int) -> list[int]:
        """Gives out `count` blocks; the longest unused of those that are kept make room."""
        if count > self.num_free:
            raise RuntimeError("not enough blocks: ask num_free first")
        while len(self._free) < count:
            self._discard(next(iter(self._idle)))
        blocks = [self._free.pop() for _ in range(count)]
        self._refs |= dict.fromkeys(blocks, 1)
        return blocks

    def give_back(self, blocks: Sequence[int]) -> None:
        """Ends one use of each. What has a name is kept, the rest is free."""
        for block in reversed(blocks):  # of a prefix the end is the first to make room: it is worth nothing without
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            del self._refs[block]
            if block in self._names:
                self._idle[block] = None
            else:
                self._release(block)

    def keep(self, block: int, name: Name, digests: tuple[str, ...]) -> None:
        """Gives a block in use a name, unless another one has it. Its content must not change any more.

        Args:
            digests: of adapters, for `forget`.
        """
        if name not in self._kept and block not in self._names:
            self._kept[name], self._names[block] = block, (name, digests)

    def find(self, names: Iterable[Name]) -> list[int]:
        """The blocks of the first names, as far as they are kept."""
        found = []
        for name in names:
            block = self._kept.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of them are nobody's: to use them takes as many from `num_free`."""
        return sum(1 for block in blocks if block in self._idle)

    def share(self, blocks: Iterable[int]) -> None:
        """Begins one more use of each of those that `find` gave."""
        for block in blocks:
            self._idle.pop(block, None)
            self._refs[block] = self._refs.get(block, 0) + 1

    def unname(self, blocks: Iterable[int]) -> None:
        """Keeps none of them any longer: those that nobody uses are free, the others are when their users leave."""
        for block in blocks:
            if block in self._idle:
                self._discard(block)
            elif block in self._names:
                del self._kept[self._names.pop(block)[0]]

    def forget(self, digests: Collection[str]) -> None:
        """The same for all blocks of mixtures with any of these adapters."""
        self.unname([block for block, (_, own) in self._names.items() if not set(digests).isdisjoint(own)])

    def take_freed(self) -> list[int]:
        """Blocks that have become free since the last call: to be zeroed before the next step."""
        freed, self._freed = self._freed, []
        return freed

    def _discard(self, block: int) -> None:
        del self._idle[block]
        del self._kept[self._names.pop(block)[0]]
        self._release(block)

    def _release(self, block: int) -> None:
        self._free.append(block)
        self._freed.append(block)
