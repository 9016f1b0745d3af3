"""When blocks run out the youngest gives its own back. Nobody can tell by an answer that it happened."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.core.errors import Cancelled, InvalidInput
from ramole.core.sampling import Sampling
from ramole.executor.sampler import Sampler
from ramole.executor.sequence import Sequence
from support.engine_world import World, make_world
from support.hostile_world import outcome

CPU = torch.device("cpu")
FEW = 6  # the longest sequence of this engine fits, and hardly anything beside it


def requests(seed: int, count: int = 10) -> list[Sequence]:
    """Long answers of every kind: greedy and sampled, with and without experts and log probabilities."""
    r = random.Random(seed)
    out = []
    for i in range(count):
        experts = tuple(Expert(f"a{j}", similarity=r.random()) for j in r.sample(range(6), r.randint(0, 3)))
        composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1)
        prompt = [r.randrange(3, 97) for _ in range(r.choice([1, 9, 20]))]
        sampler = Sampler(Sampling(temperature=0.9, repetition_penalty=1.2), i, CPU) if i % 2 else None
        out.append(
            Sequence(
                str(i), prompt, r.randint(30, 60), experts, composition, sampler=sampler, wants_logprobs=True, num_top=2
            )
        )
    return out


def two_in_need(world: World, **second: object) -> tuple[Sequence, Sequence]:
    """Runs two sequences until the younger one has been pre-empted."""
    old = Sequence("old", [5] * 30, 60, (Expert("a0"),))
    young = replace(Sequence("young", [7] * 30, 40, (Expert("a1"), Expert("a2"))), **second)
    world.engine.add(old)
    world.engine.add(young)
    for _ in range(100):
        world.engine.step()
        if young.num_preempted:
            assert not young.blocks
            assert (old.num_preempted, world.engine.num_running, world.engine.num_waiting) == (0, 1, 1)
            return old, young
    raise AssertionError("nobody was pre-empted")


@pytest.fixture
def world() -> World:
    """Of which no answer ends by itself."""
    world = make_world(num_blocks=FEW)
    world.engine._eos = frozenset()
    return world


@pytest.mark.parametrize("prefix_reuse", [False, True])
@pytest.mark.parametrize(("budget", "seed"), [(64, 1), (11, 2)])
def test_answers_are_those_of_an_engine_with_memory_for_all(budget: int, seed: int, prefix_reuse: bool) -> None:
    ample, short = (
        make_world(token_budget=budget, num_blocks=blocks, prefix_reuse=reuse)
        for blocks, reuse in ((None, False), (FEW, prefix_reuse))
    )
    ample.engine._eos = short.engine._eos = frozenset()
    want, got = ample.run(*requests(seed)), short.run(*(sequences := requests(seed)), max_steps=5000)
    assert sum(sequence.num_preempted for sequence in sequences) == short.engine.figures.num_preempted > 2
    assert ample.engine.figures.num_preempted == 0
    for sequence in sequences:
        tokens, logprobs, weights = outcome(got, sequence.id)
        want_tokens, want_logprobs, want_weights = outcome(want, sequence.id)
        assert tokens == want_tokens
        assert logprobs == pytest.approx(want_logprobs, abs=1e-4)
        assert weights == pytest.approx(want_weights, abs=1e-5)
        if sequence.usage_counts is not None and not prefix_reuse:  # nothing is counted twice
            other = next(u.sequence for u in want if u.sequence.id == sequence.id)
            assert sequence.usage_counts.tolist() == other.usage_counts.tolist()  # type: ignore[union-attr]
    assert short.engine.memory.num_used_blocks == 0


def test_one_sequence_alone_can_use_all_memory(world: World) -> None:
    sequence = Sequence("x", [5] * 30, 0)
    world.run(sequence)
    assert len(sequence.tokens) == 66
    assert sequence.num_preempted == 0


def test_what_fits_only_into_more_memory_than_there_is_is_refused() -> None:
    world = make_world(num_blocks=3)
    with pytest.raises(InvalidInput, match="exceed 48") as refused:
        world.engine.add(Sequence("x", [5] * 30, 19))
    assert refused.value.field == "sampling.max_tokens"
    assert "at most 18" in refused.value.remedy
    assert "executor.kv_blocks" in refused.value.remedy
    with pytest.raises(InvalidInput) as refused:
        world.engine.add(Sequence("x", [5] * 48, 0))
    assert refused.value.field == "prompt"
    world.run(sequence := Sequence("x", [5] * 30, 0))
    assert len(sequence.tokens) == 18 or sequence.tokens[-1] == 2


def test_who_leaves_while_it_is_preempted_holds_nothing(world: World) -> None:
    old, young = two_in_need(world)
    world.engine.cancel(young.id)
    assert world.engine.memory.num_pinned == 1
    world.run()
    assert len(old.tokens) == 60
    assert world.engine.memory.num_pinned == world.engine.memory.num_used_blocks == world.engine.num_waiting == 0


def test_a_revocation_reaches_who_is_preempted(world: World) -> None:
    old, young = two_in_need(world)
    assert world.engine.evict(["a2"], abort=True) == 1
    errors = {u.sequence.id: u.error for u in world.run() if u.error}
    assert list(errors) == [young.id]
    assert isinstance(errors[young.id], Cancelled)
    assert len(old.tokens) == 60
    assert "a2" not in world.engine.resident


def test_who_is_preempted_needs_no_load_again_also_of_what_was_deleted(world: World) -> None:
    _, young = two_in_need(world)
    world.adapters.clear()
    world.engine.evict(["a1", "a2"], abort=False)
    started = len(world.started)
    world.run()
    assert len(young.tokens) == 40
    assert len(world.started) == started
    world.engine.step()
    assert {"a1", "a2"}.isdisjoint(world.engine.resident)


def test_nobody_comes_in_before_who_was_preempted(world: World) -> None:
    old, young = two_in_need(world, tenant="young")
    for i in range(20):
        world.engine.add(Sequence(f"late{i}", [5], 2, tenant=f"t{i}"))
    while not young.blocks:
        assert world.engine._scheduler.running in ([old], [])
        world.engine.step()
    world.run()
    assert len(young.tokens) == len(old.tokens) - 20 == 40


def test_nobody_pays_for_what_is_computed_again(world: World) -> None:
    queue, paid = world.engine._scheduler.waiting, 0.0
    charge = queue.charge

    def heard(tenant: str, num_tokens: float) -> None:
        nonlocal paid
        paid += num_tokens if tenant == "young" else 0
        charge(tenant, num_tokens)

    queue.charge = heard  # type: ignore[method-assign]
    _, young = two_in_need(world, tenant="young", experts=())
    world.run()
    assert paid == young.num_tokens - 1 == 69  # nobody computes the last token


def test_each_token_after_the_first_counts_once_as_decoded() -> None:
    decoded: list[int] = []
    world = make_world(num_blocks=FEW)
    world.engine._eos = frozenset()
    world.stepped = lambda plan, num_decoded, *seconds: decoded.append(num_decoded)
    two_in_need(world)
    world.run()
    assert sum(decoded) == 100 - 2
