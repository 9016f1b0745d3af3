"""Blocks: nobody gets what another has, what is given out is clean, and names lead to what was kept under them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from ramole.executor.block_pool import NULL, SINK, BlockPool, blocks_for

NUM_BLOCKS = 12
digests = st.sampled_from(["a", "b"])


class Pool(RuleBasedStateMachine):
    """A pool, and what a naive one would know."""

    holdings = Bundle("holdings")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.refs: Counter[int] = Counter()
        self.content: dict[int, bytes] = {}  # of each block that is not zero
        self.kept: dict[bytes, tuple[int, str]] = {}
        self.num_names = 0

    @rule(target=holdings, count=st.integers(1, 4))
    def take(self, count: int) -> list[int]:
        if count > self.pool.num_free:
            with pytest.raises(RuntimeError):
                self.pool.take(count)
            return []
        blocks = self.pool.take(count)
        self.clean()
        assert not any(self.refs[block] or block in self.content for block in blocks)
        assert not {NULL, SINK} & set(blocks)
        self.refs.update(blocks)
        self.content |= dict.fromkeys(blocks, b"own")
        return blocks

    @rule(blocks=consumes(holdings))
    def give_back(self, blocks: list[int]) -> None:
        self.pool.give_back(blocks)
        self.refs.subtract(blocks)
        self.clean()

    @rule(blocks=holdings, digest=digests)
    def keep(self, blocks: list[int], digest: str) -> None:
        for block in blocks:
            name = b"%d" % self.num_names
            self.num_names += 1
            self.pool.keep(block, name, (digest,))
            if block not in [kept for kept, _ in self.kept.values()]:
                self.kept[name], self.content[block] = (block, digest), name

    @rule(target=holdings, data=st.data())
    def share(self, data: st.DataObject) -> object:
        if not self.kept:
            return multiple()
        names = data.draw(st.lists(st.sampled_from(sorted(self.kept)), unique=True, max_size=3))
        blocks = self.pool.find([*names, b"unknown", *self.kept])
        assert blocks == [self.kept[name][0] for name in names]
        assert self.pool.num_idle(blocks) == sum(not self.refs[block] for block in blocks)
        self.pool.share(blocks)
        self.refs.update(blocks)
        return blocks

    @rule(digest=digests)
    def forget(self, digest: str) -> None:
        self.pool.forget([digest])
        self.kept = {name: entry for name, entry in self.kept.items() if entry[1] != digest}
        self.clean()

    def clean(self) -> None:
        """What the engine does before each step: from then on the freed blocks are zero."""
        for block in self.pool.take_freed():
            assert not self.refs[block]
            self.content.pop(block)
        self.kept = {name: entry for name, entry in self.kept.items() if entry[0] in self.content}

    @invariant()
    def counts_are_right(self) -> None:
        used = {block for block, refs in self.refs.items() if refs}
        assert self.pool.num_used == len(used)
        assert self.pool.num_free + len(used) == NUM_BLOCKS
        idle = {block for block, _ in self.kept.values()} - used
        assert self.pool.num_kept == len(idle)
        assert set(self.content) == used | idle, "what nobody has or keeps is zero"
        for name, (block, _) in self.kept.items():
            assert self.pool.find([name]) == [block]


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_the_longest_unused_makes_room_and_of_a_prefix_its_end() -> None:
    pool = BlockPool(6)
    first, second = pool.take(3), pool.take(2)
    for blocks, name in ((first, b"f%d"), (second, b"s%d")):
        for i, block in enumerate(blocks):
            pool.keep(block, name % i, ())
        pool.give_back(blocks)
    pool.share([first[0]])
    pool.give_back([first[0]])
    pool.take(3)
    assert pool.find([b"f0", b"f1", b"f2"]) == first[:1]
    assert pool.find([b"s0", b"s1"]) == second


@pytest.mark.parametrize(("num_tokens", "want"), [(0, 0), (1, 1), (16, 1), (17, 2), (256, 16)])
def test_a_sequence_holds_what_it_uses(num_tokens: int, want: int) -> None:
    assert blocks_for(num_tokens) == want
