"""The policy alone, with any loads and any clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.app.scaling import Fleet, History, Load, ScalingPolicy, call_load, executor_load
from ramole.core.settings import CallScalingSettings, ExecutorScalingSettings

POLICY = ScalingPolicy(least=1, most=8, target=0.7, up_s=3.0, down_s=30.0, idle_s=60.0)
NAPPING = replace(POLICY, least=0)

POLICIES = st.builds(
    lambda least, more, target, up_s, down_s, idle_s, first_token_s: ScalingPolicy(
        least=least,
        most=max(1, least + more),
        target=target,
        up_s=up_s,
        down_s=down_s,
        idle_s=idle_s,
        first_token_s=first_token_s,
    ),
    st.integers(0, 4),
    st.integers(0, 8),
    st.floats(0.1, 1.0),
    st.floats(0.5, 10.0),
    st.floats(1.0, 100.0),
    st.floats(1.0, 100.0),
    st.sampled_from([0.0, 0.5]),
)
LOADS = st.lists(st.builds(Load, st.floats(0, 5), st.sampled_from([0.0, 0.0, 3.0]), st.floats(0, 2)), max_size=6)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    loads = draw(LOADS)
    ready = len(loads) + draw(st.integers(0, 2))
    return Fleet(ready + draw(st.integers(0, 2)), ready, loads, draw(st.sampled_from([0.0, 0.0, 2.0])))


STEPS = st.lists(st.tuples(st.floats(0.05, 20.0), fleets()), min_size=1, max_size=20)


@settings(deadline=None)
@given(POLICIES, STEPS)
def test_bounds_hold_and_memory_is_bounded(policy: ScalingPolicy, steps: list[tuple[float, Fleet]]) -> None:
    history, now_s = None, 0.0
    for pause_s, fleet in steps:
        now_s += pause_s
        number, history = policy.decide(history, now_s, fleet)
        assert policy.least <= number <= policy.most
        width = policy.most - policy.least + 1
        assert len(history.least.entries) <= width
        assert len(history.most.entries) <= width


@settings(deadline=None)
@given(POLICIES, STEPS, st.floats(0, 3), st.floats(0, 3))
def test_more_load_never_means_fewer(
    policy: ScalingPolicy, steps: list[tuple[float, Fleet]], more: float, slower_s: float
) -> None:
    history, now_s = None, 0.0
    for pause_s, fleet in steps:
        now_s += pause_s
        heavier = replace(
            fleet,
            loads=[Load(load.demand + more, load.queued, load.first_token_s + slower_s) for load in fleet.loads],
        )
        number, following = policy.decide(history, now_s, fleet)
        assert policy.decide(history, now_s, heavier)[0] >= number
        history = following


@settings(deadline=None)
@given(POLICIES, STEPS)
def test_nobody_goes_while_somebody_waits(policy: ScalingPolicy, steps: list[tuple[float, Fleet]]) -> None:
    history, now_s = None, 0.0
    for pause_s, fleet in steps:
        now_s += pause_s
        number, history = policy.decide(history, now_s, fleet)
        if any(load.queued for load in fleet.loads) or (fleet.waiting and not fleet.ready):
            assert number >= min(fleet.target, policy.most)
        elif fleet.waiting:
            assert number >= min(fleet.target, 1)


@settings(deadline=None)
@given(POLICIES, STEPS)
def test_two_changes_are_as_far_apart_as_the_cool_down(policy: ScalingPolicy, steps: list[tuple[float, Fleet]]) -> None:
    history, now_s, changed_s, number = None, 0.0, None, policy.least
    for pause_s, fleet in steps:
        now_s += pause_s
        target = number
        number, history = policy.decide(history, now_s, replace(fleet, target=target))
        if number == target:
            continue
        if changed_s is not None and target > 0:
            cool_s = policy.up_s if number > target else min(policy.down_s, policy.idle_s)
            assert now_s - changed_s >= cool_s
        changed_s = now_s


def run(
    policy: ScalingPolicy,
    demand: Callable[[float], float],
    *,
    start: int,
    for_s: float,
    start_s: float = 5.0,
    history: History | None = None,
) -> list[tuple[float, int]]:
    """(second, number) of each change. Replicas start in `start_s`; the demand is divided among those that run."""
    coming: list[float] = []
    target = ready = start
    changes = [(0.0, start)]
    now_s = 0.0
    while now_s < for_s:
        now_s += 0.5
        done = [at_s for at_s in coming if at_s <= now_s]
        coming = [at_s for at_s in coming if at_s > now_s]
        ready += len(done)
        total = demand(now_s)
        # More than one replica can do is queued there.
        each = total / ready if ready else 0.0
        loads = [Load(each, queued=max(0.0, each - 1))] * ready
        number, history = policy.decide(history, now_s, Fleet(target, ready, loads, total if not ready else 0.0))
        if number != target:
            changes.append((now_s, number))
        if number > target:
            coming += [now_s + start_s] * (number - target)
        while ready + len(coming) > number:
            if coming:
                coming.pop()
            else:
                ready -= 1
        target = number
    return changes


@settings(deadline=None)
@given(POLICIES.map(lambda policy: replace(policy, least=max(1, policy.least))), st.floats(0, 10), st.integers(1, 12))
def test_a_constant_load_moves_it_in_one_direction_only(policy: ScalingPolicy, demand: float, start: int) -> None:
    start = min(max(start, policy.least), max(policy.least, policy.most))
    policy = replace(policy, most=max(policy.most, policy.least))
    numbers = [number for _, number in run(policy, lambda _: demand, start=start, for_s=400.0)]
    assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
    assert len(numbers) <= 2


def test_a_step_of_load_is_followed_within_ten_seconds_and_its_end_after_the_cool_down() -> None:
    changes = run(POLICY, lambda now_s: 2.5 if 20 <= now_s < 100 else 0.3, start=1, for_s=300.0)
    assert [number for _, number in changes] == [1, 4, 1]
    # Half a second lies between two looks.
    assert 19.5 + POLICY.up_s <= changes[1][0] <= 30
    assert 99.5 + POLICY.down_s <= changes[2][0] <= 100 + POLICY.down_s + 2


def test_a_short_burst_and_a_short_lull_change_nothing() -> None:
    assert len(run(POLICY, lambda now_s: 4.0 if now_s % 40 < 2 else 0.4, start=1, for_s=300.0)) == 1
    assert len(run(POLICY, lambda now_s: 0.1 if now_s % 40 < 20 else 2.0, start=3, for_s=300.0)) == 1


def test_noise_around_the_target_does_not_flap() -> None:
    # The third replica is on the edge of being needed; what has come stays.
    changes = run(POLICY, lambda now_s: 1.45 if int(now_s) % 10 < 5 else 1.35, start=2, for_s=900.0)
    assert [number for _, number in changes] == [2, 3]


def test_the_last_goes_when_nobody_has_asked_for_long_and_comes_back_at_once() -> None:
    changes = run(NAPPING, lambda now_s: 0.4 if now_s < 20 or now_s >= 200 else 0.0, start=1, for_s=230.0)
    assert [number for _, number in changes] == [1, 0, 1]
    assert 19.5 + NAPPING.idle_s <= changes[1][0] <= 20 + NAPPING.idle_s + 2
    assert changes[2][0] == 200
    assert len(run(POLICY, lambda _: 0.0, start=1, for_s=600.0)) == 1


def test_replicas_of_which_nothing_is_known_are_not_taken_for_idle() -> None:
    history = None
    for now_s in range(100):
        number, history = POLICY.decide(history, float(now_s), Fleet(3, 3, [Load(0.0)]))
        assert number == 3


def test_slow_first_tokens_are_a_reason_for_one_more_while_somebody_waits() -> None:
    policy = replace(POLICY, first_token_s=1.0)

    def decide(loads: Sequence[Load], ready: int) -> int:
        number, history = policy.decide(None, 0.0, Fleet(ready, ready, loads))
        for now_s in (1.0, 2.0, 3.0):
            number, history = policy.decide(history, now_s, Fleet(ready, ready, loads))
        return number

    slow = Load(0.5, queued=1.0, first_token_s=1.5)
    assert decide([slow, Load(0.1)], 2) == 3
    assert decide([replace(slow, queued=0.0), Load(0.1)], 2) == 2
    assert decide([replace(slow, first_token_s=0.9), Load(0.1)], 2) == 2


RECORD = {
    "running_tokens": 200.0,
    "queued_tokens": 0.0,
    "max_tokens": 1000.0,
    "running": 2.0,
    "max_running": 10.0,
    "queued": 0.0,
    "slots": 3.0,
    "max_slots": 30.0,
    "first_token_s": 0.25,
}


@pytest.mark.parametrize(
    ("changed", "demand"),
    [
        ({}, 0.2),
        ({"running_tokens": 900.0}, 0.9),
        ({"queued_tokens": 1800.0}, 2.0),
        ({"slots": 15.0}, 0.5),
        ({"running": 10.0, "queued": 5.0}, 1.5),
        ({"slots": 30.0, "queued": 5.0}, 1.5),
    ],
)
def test_the_load_of_an_executor_is_that_of_its_scarcest_place(changed: dict[str, float], demand: float) -> None:
    load = executor_load(RECORD | changed)
    assert load.demand == pytest.approx(demand)
    assert load.queued == (RECORD | changed)["queued"]
    assert load.first_token_s == 0.25


def test_the_load_of_the_others_is_their_calls_in_flight() -> None:
    assert call_load({"inflight": 24.0}, 16) == Load(1.5)


def test_the_policy_is_as_the_settings_say() -> None:
    calls = ScalingPolicy.of(CallScalingSettings(min=2, max=5, target=0.5, up_s=1, down_s=2))
    assert calls == ScalingPolicy(least=2, most=5, target=0.5, up_s=1, down_s=2)
    executor = ScalingPolicy.of(ExecutorScalingSettings(min=0, idle_s=9, first_token_s=0.4))
    assert (executor.least, executor.idle_s, executor.first_token_s) == (0, 9, 0.4)
