"""No request changes another's answer, whatever the neighbours are and whatever places they leave behind.

Neighbours here have passed no admission, see support/hostile_world.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ramole.core.composition import Composition, Expert, Weighting
from ramole.core.errors import Cancelled, Internal, InvalidInput
from ramole.core.sampling import Sampling
from ramole.executor.sampler import Sampler
from ramole.executor.sequence import Sequence
from ramole.lora.weights import AdapterWeights
from support.hostile_world import CPU, POISON, Alone, drive, make_world, outcome


@pytest.fixture(scope="module", params=["torch", "native"])
def form(request: pytest.FixtureRequest) -> tuple[str, Alone]:
    return request.param, Alone(request.param)


@given(seed=st.integers(0, 10**9))
@settings(
    max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # a seed does not shrink
def test_bystanders_get_what_they_get_alone(form: tuple[str, Alone], seed: int) -> None:
    drive(*form[:1], seed, form[1], steps=40)


@pytest.mark.parametrize("prefix_reuse", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_bystanders_get_what_they_get_alone_where_memory_is_short(
    form: tuple[str, Alone], seed: int, prefix_reuse: bool
) -> None:
    drive(form[0], seed, form[1], steps=40, num_blocks=6, prefix_reuse=prefix_reuse)


def test_bystanders_get_what_they_get_alone_on_the_gpus_kernels() -> None:
    drive("triton", 7, Alone("triton"), steps=10)


def test_blocks_left_with_nan_harm_nobody() -> None:
    """The request that showed it: OK with an empty text, and the next one in its place answered from NaN."""
    world = make_world("torch")
    overflowing = Sequence("bad", [5] * 60, 4, (Expert("a0"),), Composition(Weighting.UNIFORM))
    object.__setattr__(overflowing.composition, "scale", 3.4e38)
    errors = [u.error for u in world.run(overflowing) if u.error]
    assert [type(error) for error in errors] == [InvalidInput]
    assert errors[0].field == "composition"
    short, long = Sequence("short", [7, 8], 6), Sequence("long", [9] * 40, 30)
    together = world.run(long, short)
    alone = make_world("torch").run(Sequence("short", [7, 8], 6))
    assert outcome(together, "short") == outcome(alone, "short")


def test_keys_that_are_finite_but_huge_harm_nobody() -> None:
    """A score of such a key overflows before the mask can hide it."""
    world = make_world("torch")
    kv = world.engine._runner.kv
    world.engine.add(Sequence("big", [5] * 20, 9))
    world.engine.step()
    kv.keys[0][world.engine._scheduler.running[0].blocks] = 3e38
    world.engine.cancel("big")
    together = world.run(Sequence("short", [7, 8], 6), Sequence("long", [9] * 40, 30))
    assert outcome(together, "short") == outcome(make_world("torch").run(Sequence("short", [7, 8], 6)), "short")


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_step_that_raises_finds_its_culprit(place: int) -> None:
    world = make_world("native")
    prompts = [[5 + i, 6, 7] for i in range(3)]
    want = {str(i): outcome(make_world("native").run(Sequence("x", p, 5)), "x") for i, p in enumerate(prompts)}
    sequences = [Sequence(str(i), p, 5) for i, p in enumerate(prompts)]
    bad = Sequence("bad", [5] * place + [POISON], 5)
    updates = world.run(*sequences[:2], bad, sequences[2])
    errors = {u.sequence.id: u.error for u in updates if u.error}
    assert set(errors) == {"bad"}
    assert isinstance(errors["bad"], Internal)
    assert "does not like" in str(errors["bad"].__cause__)
    for id_, outcome_alone in want.items():
        assert outcome(updates, id_) == outcome_alone


def test_a_sequence_that_samples_is_asked_once_whatever_raises_beside_it() -> None:
    def sampled() -> Sequence:
        return Sequence("s", [5, 6], 8, (Expert("a1"),), sampler=Sampler(Sampling(temperature=1.0), 3, CPU))

    want = outcome(make_world("native").run(sampled()), "s")
    world = make_world("native")
    updates = world.run(sampled(), *(Sequence(f"bad{i}", [5, POISON], 5) for i in range(5)))
    assert outcome(updates, "s") == want


def test_an_adapter_that_cannot_be_placed_fails_its_own_requests_and_frees_the_slot() -> None:
    world = make_world("native")
    mixture, place = world.engine._runner.mixture, world.engine._runner.mixture.write

    def write(slot: int, weights: AdapterWeights) -> None:
        if weights is world.adapters["a1"]:
            raise MemoryError("no room on the device")
        place(slot, weights)

    mixture.write = write  # type: ignore[method-assign]
    updates = world.run(
        Sequence("bad", [5, 6], 4, (Expert("a0"), Expert("a1"))), Sequence("good", [5, 6], 4, (Expert("a0"),))
    )
    errors = {u.sequence.id: u.error for u in updates if u.error}
    assert set(errors) == {"bad"}
    assert errors["bad"].field == "experts[1]"
    assert "a1" not in world.engine.resident
    mixture.write = place  # type: ignore[method-assign]
    assert not [u.error for u in world.run(Sequence("again", [5, 6], 4, (Expert("a1"),))) if u.error]


def test_usage_that_cannot_be_read_fails_who_needs_it() -> None:
    world = make_world("native")
    mixture = world.engine._runner.mixture
    read, calls = mixture.usage, []

    def usage(step: Any) -> Any:
        calls.append(step)
        raise RuntimeError("no usage")

    mixture.usage = usage  # type: ignore[method-assign]
    updates = world.run(Sequence("mixed", [5, 6], 3, (Expert("a0"),)), Sequence("bare", [5, 6], 3))
    assert {u.sequence.id for u in updates if u.error} == {"mixed"}
    assert calls
    mixture.usage = read  # type: ignore[method-assign]
    assert not [u.error for u in world.run(Sequence("mixed", [5, 6], 3, (Expert("a0"),))) if u.error]


def test_a_load_that_is_broken_off_fails_who_waits_for_it() -> None:
    world = make_world("native")
    world.holds_loads = True
    world.engine.add(Sequence("bad", [5], 3, (Expert("a0"),)))
    world.loads["a0"].cancel()
    errors = [u.error for u in world.run(Sequence("good", [5], 3)) if u.error]
    assert [error.field for error in errors] == ["experts[0]"]


def test_a_device_that_no_longer_computes_ends_the_engine() -> None:
    world = make_world("native")

    def lost() -> None:
        raise RuntimeError("device lost")

    world.engine._runner.check_device = lost  # type: ignore[method-assign]
    world.engine.add(Sequence("bad", [POISON], 5))
    with pytest.raises(RuntimeError, match="device lost"):
        world.engine.step()


def test_revoked_in_the_middle_leaves_nothing_behind() -> None:
    world = make_world("torch")
    world.engine.add(Sequence("user", [5] * 30, 30, (Expert("huge"),)))
    world.engine.add(Sequence("other", [9] * 3, 3))
    world.engine.step()
    world.engine.evict(["huge"], abort=True)
    errors = [u.error for u in world.run() if u.error]
    assert all(isinstance(error, Cancelled | InvalidInput) for error in errors)
    assert len(errors) == 1
    kv = world.engine._runner.kv
    assert all(not t.any() for t in [*kv.keys, *kv.values])
