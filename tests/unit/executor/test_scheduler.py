"""The scheduler against its promises, over random traffic."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.core.composition import Expert
from ramole.executor.scheduler import Scheduler
from ramole.executor.sequence import FinishReason, Sequence
from ramole.executor.slots import SlotTable


def drive(seed: int, num_slots: int, max_rows: int, budget: int) -> None:
    """Runs random sequences to their end without a model, checking every schedule."""
    r = random.Random(seed)
    slots = SlotTable(num_slots)
    scheduler = Scheduler(slots, max_rows=max_rows, token_budget=budget)
    loaded: set[str] = set()
    todo = []
    for i in range(30):
        experts = tuple(Expert(f"a{j}") for j in r.sample(range(9), r.randint(0, min(3, num_slots - 1))))
        todo.append(Sequence(str(i), [1] * r.randint(1, 20), r.randint(1, 6), experts))
    finished: list[str] = []
    for _ in range(3000):
        if r.random() < 0.5 and todo:
            scheduler.add(todo.pop(0))
        loaded |= {f"a{r.randrange(9)}"}  # loads finish in any order
        schedule = scheduler.schedule(loaded.__contains__)
        assert sum(schedule.chunks) <= max(budget, len(schedule.sequences))
        assert sum(schedule.chunks) <= budget or all(c == 1 for c in schedule.chunks)
        rows = [s.row for s in schedule.sequences]
        assert None not in rows
        assert len(set(rows)) == len(rows)
        lengths = [c != 1 for c in schedule.chunks]
        assert lengths == sorted(lengths)  # one-token chunks first
        placed = [slot for _, slot in schedule.placements]
        assert len(set(placed)) == len(placed)
        assert 0 not in placed
        for sequence, chunk in zip(schedule.sequences, schedule.chunks, strict=True):
            assert sequence.mixture is not None
            assert sequence.mixture.slots == tuple(slots.slot(e.digest) for e in sequence.experts)
            assert len(sequence.next_tokens(chunk)) == chunk
            sequence.num_cached += chunk
            if sequence.is_prefilled:
                sequence.tokens.append(7)
                if len(sequence.tokens) == sequence.max_tokens or r.random() < 0.05:
                    sequence.finish_reason = FinishReason.LENGTH
                    scheduler.finish(sequence)
                    finished.append(sequence.id)
        if not todo and not scheduler.waiting and not scheduler.running:
            break
    assert sorted(finished, key=int) == [str(i) for i in range(30)]
    assert not slots._refs


@given(st.integers(0, 10**6), st.integers(4, 8), st.integers(1, 6), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_every_sequence_ends_and_every_schedule_keeps_the_rules(
    seed: int, num_slots: int, max_rows: int, budget: int
) -> None:
    drive(seed, num_slots, max_rows, budget)
