"""The fair queue against its promises: order within a tenant, service by weight, no savings from a pause."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.executor.block_pool import BlockPool
from ramole.executor.fair_queue import FairQueue
from ramole.executor.scheduler import Scheduler
from ramole.executor.sequence import FinishReason, Sequence
from ramole.executor.slots import SlotTable

ids = itertools.count()
TENANTS = "abc"


def request(tenant: str, length: int = 10) -> Sequence:
    return Sequence(str(next(ids)), [1] * length, 1, tenant=tenant)


def filled(sequences: Iterable[Sequence], weights: dict[str, float] | None = None) -> FairQueue:
    queue = FairQueue(weights)
    for sequence in sequences:
        queue.add(sequence)
    return queue


def take(queue: FairQueue) -> Sequence:
    """Serves whoever is next."""
    sequence = next(iter(queue))
    queue.remove(sequence)
    queue.charge(sequence.tenant, len(sequence.prompt))
    return sequence


arrivals = st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 50)).map(lambda pair: request(*pair)))


@given(arrivals)
def test_nobody_is_lost_and_each_tenant_keeps_its_order(sequences: list[Sequence]) -> None:
    queue = filled(sequences)
    assert len(queue) == len(sequences)
    told = list(queue)
    served = [take(queue) for _ in sequences]
    assert not len(queue)
    assert list(queue) == []
    assert told == served, "the order that it tells is the order that it keeps"
    for tenant in TENANTS:
        assert [s for s in served if s.tenant == tenant] == [s for s in sequences if s.tenant == tenant]


@given(arrivals, st.data())
def test_any_of_them_can_be_taken_out(sequences: list[Sequence], data: st.DataObject) -> None:
    queue = filled(sequences)
    for sequence in data.draw(st.permutations(sequences)):
        queue.remove(sequence)
        assert sequence not in set(queue)
        with pytest.raises(ValueError, match="not in deque"):
            queue.remove(sequence)
    assert not len(queue)


@given(st.fixed_dictionaries({tenant: st.floats(0.25, 4) for tenant in TENANTS}), st.data())
def test_service_goes_by_weight_while_all_wait(weights: dict[str, float], data: st.DataObject) -> None:
    lengths = st.lists(st.integers(1, 50), min_size=60, max_size=60)
    queue = filled((request(t, n) for t in TENANTS for n in data.draw(lengths)), weights)
    served: dict[str, float] = defaultdict(float)
    while all(any(s.tenant == tenant for s in queue) for tenant in TENANTS):
        sequence = take(queue)
        served[sequence.tenant] += len(sequence.prompt) / weights[sequence.tenant]
        # Nobody is ahead of another by more than one request of its own.
        assert max(served.values()) - min(served[t] for t in TENANTS) <= 50 / min(weights.values()) + 1e-6


@given(st.integers(1, 500), st.integers(0, 50))
def test_a_crowd_does_not_delay_another_tenant(crowd: int, num_served: int) -> None:
    queue = filled(request("crowd") for _ in range(crowd))
    for _ in range(min(num_served, crowd - 1)):
        take(queue)
    late = request("late")
    queue.add(late)
    assert late in [take(queue) for _ in range(2) if len(queue)]


@given(st.integers(1, 40))
def test_a_pause_saves_nothing_up(pause: int) -> None:
    queue = filled([request("idle"), *(request("busy") for _ in range(pause + 20))])
    for _ in range(pause + 1):
        take(queue)
    for _ in range(20):
        queue.add(request("idle"))
    turns = [take(queue).tenant for _ in range(10)]
    assert 4 <= turns.count("idle") <= 6


def test_what_is_generated_and_loaded_counts_too() -> None:
    queue = filled([request(tenant) for _ in range(10) for tenant in "ab"])
    queue.charge("a", 35)
    assert [take(queue).tenant for _ in range(5)] == ["b", "b", "b", "b", "a"]


def test_it_remembers_nobody_who_owes_nothing() -> None:
    queue = FairQueue()
    for number in range(10_000):
        queue.add(request(f"tenant-{number}"))
        take(queue)
    assert len(queue._served) < 3, "a stranger's name must not cost memory for ever"


@pytest.mark.parametrize("crowd", [10, 300])
def test_the_scheduler_lets_a_small_tenant_through_a_crowd(crowd: int) -> None:
    """How long a lone request takes behind a crowd of another tenant does not depend on the size of the crowd."""
    scheduler = Scheduler(SlotTable(2), BlockPool(64), max_rows=4, token_budget=64)
    for _ in range(crowd):
        scheduler.add(Sequence(str(next(ids)), [1] * 16, 8, tenant="crowd"))
    for _ in range(20):
        step(scheduler)
    late = Sequence("late", [1] * 16, 8, tenant="late")
    scheduler.add(late)
    steps = 0
    while not late.is_finished:
        step(scheduler)
        steps += 1
    assert steps <= 8 + 8 + 1  # until a row is free, then its own tokens


def step(scheduler: Scheduler) -> None:
    schedule = scheduler.schedule(lambda digest: True)
    for sequence, chunk in zip(schedule.sequences, schedule.chunks, strict=True):
        sequence.num_cached += chunk
        if not sequence.num_missing:
            sequence.tokens.append(7)
            if len(sequence.tokens) == sequence.max_tokens:
                sequence.finish_reason = FinishReason.LENGTH
                scheduler.finish(sequence)


def test_the_scheduler_serves_by_weight() -> None:
    """Of two crowds the one with weight 3 gets three quarters of the tokens."""
    weights = {"heavy": 3.0}
    scheduler = Scheduler(SlotTable(2), BlockPool(64), max_rows=4, token_budget=64, tenant_weights=weights)
    for _ in range(400):
        for tenant in ("heavy", "light"):
            scheduler.add(Sequence(str(next(ids)), [1] * 4, 4, tenant=tenant))
    tokens: dict[str, int] = defaultdict(int)
    for _ in range(400):
        for sequence in scheduler.running:
            tokens[sequence.tenant] += 1
        step(scheduler)
    assert 2.7 <= tokens["heavy"] / tokens["light"] <= 3.3
