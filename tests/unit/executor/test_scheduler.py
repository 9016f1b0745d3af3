"""The scheduler against its promises, over random traffic."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.core.composition import Expert
from ramole.executor.block_pool import BLOCK, BlockPool, blocks_for
from ramole.executor.scheduler import Scheduler
from ramole.executor.sequence import FinishReason, Sequence
from ramole.executor.slots import SlotTable


def drive(seed: int, num_slots: int, max_rows: int, budget: int, num_blocks: int, reuses: bool) -> int:
    """Runs random sequences to their end without a model, checking every schedule."""
    r = random.Random(seed)
    slots = SlotTable(num_slots)
    pool = BlockPool(num_blocks)
    scheduler = Scheduler(slots, pool, max_rows=max_rows, token_budget=budget, reuses_prefixes=reuses)
    loaded: set[str] = set()
    todo = []
    for i in range(30):
        experts = tuple(Expert(f"a{j}") for j in r.sample(range(9), r.randint(0, min(3, num_slots - 1))))
        todo.append(Sequence(str(i), [1] * r.randint(1, 40), r.randint(1, 24), experts))
    finished: list[str] = []
    running: list[int] = []
    for _ in range(3000):
        if r.random() < 0.5 and todo:
            scheduler.add(todo.pop(0))
        loaded |= {f"a{r.randrange(9)}"}  # loads finish in any order
        schedule = scheduler.schedule(loaded.__contains__)
        assert sum(schedule.chunks) <= max(budget, len(schedule.sequences))
        assert sum(schedule.chunks) <= budget or all(c == 1 for c in schedule.chunks)
        assert not set(pool.take_freed()) & set(pool._idle)
        assert len(scheduler.running) <= max_rows
        assert [s.turn for s in scheduler.running] == sorted(s.turn for s in scheduler.running if s.turn is not None)
        held = [block for s in scheduler.running for block in s.blocks]
        assert pool.num_used == len(set(held)) == num_blocks - pool.num_free
        assert reuses or len(set(held)) == len(held)
        assert not any(s.blocks or s.num_cached for s in scheduler.waiting)
        if running and scheduler.running:
            assert min(running) in [s.turn for s in scheduler.running], "the oldest stays"
        lengths = [c != 1 for c in schedule.chunks]
        assert lengths == sorted(lengths)  # one-token chunks first
        placed = [slot for _, slot in schedule.placements]
        assert len(set(placed)) == len(placed)
        assert 0 not in placed
        for sequence, chunk in zip(schedule.sequences, schedule.chunks, strict=True):
            assert sequence.mixture is not None
            assert sequence.mixture.slots == tuple(slots.slot(e.digest) for e in sequence.experts)
            assert len(sequence.next_tokens(chunk)) == chunk
            # A chunk is new, or it has been computed before: what experts got is counted of the new ones.
            assert sequence.num_cached + chunk <= sequence.num_computed or not sequence.is_computed_again
            assert sequence.num_cached + chunk <= BLOCK * len(sequence.blocks)
            assert len(sequence.blocks) <= blocks_for(sequence.max_length)
            sequence.num_cached += chunk
            sequence.num_computed = max(sequence.num_computed, sequence.num_cached)
            scheduler.computed(sequence, sequence.num_cached - chunk)
            if not sequence.num_missing:
                sequence.tokens.append(7)
                if len(sequence.tokens) == sequence.max_tokens or r.random() < 0.05:
                    sequence.finish_reason = FinishReason.LENGTH
                    scheduler.finish(sequence)
                    finished.append(sequence.id)
        running = [s.turn for s in scheduler.running if s.turn is not None]
        if not todo and not scheduler.waiting and not scheduler.running:
            break
    assert sorted(finished, key=int) == [str(i) for i in range(30)]
    assert not slots._refs
    assert pool.num_free == num_blocks
    return scheduler.num_preempted


@given(
    st.integers(0, 10**6),
    st.integers(4, 8),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(blocks_for(64), 24),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_sequence_ends_and_every_schedule_keeps_the_rules(
    seed: int, num_slots: int, max_rows: int, budget: int, num_blocks: int, reuses: bool
) -> None:
    drive(seed, num_slots, max_rows, budget, num_blocks, reuses)


def test_with_few_blocks_sequences_are_preempted_and_with_enough_never() -> None:
    assert sum(drive(seed, 8, 6, 40, blocks_for(64), reuses=False) for seed in range(8)) > 8
    assert sum(drive(seed, 8, 6, 40, 6 * blocks_for(64), reuses=False) for seed in range(8)) == 0
