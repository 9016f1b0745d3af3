"""The engine: a request in any batch answers as it does alone, and nothing is ever lost or leaked."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.core.errors import Cancelled, InvalidInput, LimitExceeded, RamoleError
from ramole.executor.scheduler import MAX_SKIPS
from ramole.executor.sequence import FinishReason, Sequence
from ramole.mixture.plan import StepPlan
from ramole.mixture.step import Form
from ramole.mixture.torch_form import torch_layout
from support.engine_world import World, make_world, tiny_llama


def requests(seed: int, count: int, num_adapters: int = 8) -> list[Sequence]:
    """Random prompts with 0 to 4 experts and every composition."""
    r = random.Random(seed)
    out = []
    for i in range(count):
        experts = tuple(
            Expert(f"a{j}", similarity=r.uniform(0, 1), weight=r.uniform(-0.5, 1))
            for j in r.sample(range(num_adapters), r.randint(0, 4))
        )
        composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1, scale=r.choice([1, 0.5]))
        prompt = [r.randrange(3, 97) for _ in range(r.choice([1, 3, 9, 30]))]
        out.append(Sequence(str(i), prompt, r.randint(1, 12), experts, composition))
    return out


def tokens_of(updates: list) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for update in updates:
        assert update.error is None
        out.setdefault(update.sequence.id, []).append(update.sampled and update.sampled.token)
    return out


def check_at_rest(world: World) -> None:
    """Nothing is held any more: every slot can be emptied, and every row and slot be used by others at once."""
    engine, num_slots = world.engine, world.num_slots - 1
    assert (engine.num_running, engine.num_waiting) == (0, 0)
    engine.evict(engine.resident, abort=False)
    engine.step()
    assert not engine.resident
    world.holds_loads = False
    for i in range(world.max_batch):
        engine.add(Sequence(f"row {i}", [5, 6], 2, (Expert(f"a{i % num_slots}"),)))
    engine.step()
    assert engine.num_resident == min(world.max_batch, num_slots)
    assert engine.num_running == world.max_batch
    world.run()
    assert (engine.num_running, engine.num_waiting) == (0, 0)


@pytest.mark.parametrize("budget", [7, 64])
def test_a_request_in_a_mixed_batch_gives_the_same_tokens_as_alone(budget: int) -> None:
    world = make_world(token_budget=budget)
    together = tokens_of(world.run(*requests(1, 24)))
    check_at_rest(world)
    alone = make_world()
    for sequence in requests(1, 24):
        assert tokens_of(alone.run(sequence)) == {sequence.id: together[sequence.id]}
    assert len({tuple(t) for t in together.values()}) > 12  # different adapters really answer differently


def test_staggered_arrivals_change_nothing() -> None:
    world = make_world(num_slots=6)
    waiting, updates = requests(2, 20), []
    want = tokens_of(make_world().run(*requests(2, 20)))
    while waiting or world.engine.has_work:
        for sequence in waiting[:2]:
            world.engine.add(sequence)
        waiting = waiting[2:]
        updates += world.engine.step()
    assert tokens_of(updates) == want
    check_at_rest(world)


def test_without_adapters_it_is_transformers_greedy_generate() -> None:
    model = tiny_llama()
    prompts = [[5, 9, 11], [7], [20, 21, 22, 23, 24, 25, 26]]
    world = make_world()
    got = tokens_of(world.run(*[Sequence(str(i), p, 10) for i, p in enumerate(prompts)]))
    for i, prompt in enumerate(prompts):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=2, pad_token_id=2)
        assert got[str(i)] == out[0, len(prompt) :].tolist()


def test_a_cold_request_does_not_hold_up_those_behind_it() -> None:
    world = make_world()
    world.holds_loads = True
    world.engine.add(Sequence("cold", [5, 6], 4, (Expert("a1"),)))
    world.engine.add(Sequence("warm", [5, 6], 4))
    seen = [u.sequence.id for _ in range(6) for u in world.engine.step()]
    assert set(seen) == {"warm"}
    assert world.engine.is_stalled
    world.finish_load("a1")
    assert {u.sequence.id for u in world.run()} == {"cold"}
    check_at_rest(world)


def test_an_adapter_that_cannot_be_loaded_fails_only_its_own_requests() -> None:
    world = make_world()
    updates = world.run(
        Sequence("bad", [5, 6], 4, (Expert("a1"), Expert("unknown"))), Sequence("good", [5, 6], 4, (Expert("a1"),))
    )
    errors = {u.sequence.id: u.error for u in updates if u.error}
    assert set(errors) == {"bad"}
    assert isinstance(errors["bad"], RamoleError)
    assert [u.sequence.finish_reason for u in updates if u.is_last and not u.error] == [FinishReason.LENGTH]
    check_at_rest(world)


def test_cancel_frees_everything_at_once() -> None:
    world = make_world()
    for sequence in requests(4, 12):
        world.engine.add(sequence)
    world.engine.step()
    for i in range(12):
        world.engine.cancel(str(i))
    world.engine.cancel("never heard of")
    assert not world.engine.has_work or not world.engine.step()
    check_at_rest(world)


def test_revoking_for_one_tenant_leaves_the_requests_of_others() -> None:
    """Somebody may upload what another tenant has, and revoke it."""
    alone = Sequence("theirs", [5, 6], 30, (Expert("a1"),))
    make_world().run(alone)
    world = make_world()
    theirs = Sequence("theirs", [5, 6], 30, (Expert("a1", tenant="other"),))
    queued = [Sequence(f"queued {n}", [5, 6], 3, (Expert("a1", tenant="other"),)) for n in range(20)]
    world.engine.add(Sequence("ours", [5, 6], 30, (Expert("a1", tenant="mallory"),)))
    for sequence in (theirs, *queued):
        world.engine.add(sequence)
    world.engine.step()
    assert world.engine.evict(["a1"], abort=True, tenant="mallory") == 1
    world.run()
    assert theirs.tokens == alone.tokens
    assert all(len(sequence.tokens) == 3 for sequence in queued)
    world.run(Sequence("y", [5], 1))
    assert "a1" not in world.engine.resident, "it left with its last user"


def test_revoke_aborts_users_and_empties_the_slot() -> None:
    world = make_world()
    world.engine.add(Sequence("user", [5, 6], 30, (Expert("a1"), Expert("a2"))))
    world.engine.add(Sequence("other", [5, 6], 30, (Expert("a2"),)))
    world.engine.step()
    assert world.engine.evict(["a1"], abort=True) == 1
    errors = [u for u in world.engine.step() if u.error]
    assert [u.sequence.id for u in errors] == ["user"]
    assert isinstance(errors[0].error, Cancelled)
    assert "a1" not in world.engine.resident
    world.run()
    check_at_rest(world)


def test_delete_lets_users_finish_then_frees_the_slot() -> None:
    world = make_world()
    want = tokens_of(world.run(Sequence("x", [5, 6], 6, (Expert("a1"),))))
    world.engine.add(Sequence("x", [5, 6], 6, (Expert("a1"),)))
    first = world.engine.step()
    assert world.engine.evict(["a1"], abort=False) == 0
    assert tokens_of(first + world.run()) == want
    world.run(Sequence("y", [5], 1))
    assert "a1" not in world.engine.resident


def test_delete_lets_those_in_the_queue_finish_too() -> None:
    want = tokens_of(make_world().run(Sequence("x", [5, 6], 6, (Expert("a1"), Expert("a2")))))
    world = make_world()
    world.holds_loads = True
    world.engine.add(Sequence("x", [5, 6], 6, (Expert("a1"), Expert("a2"))))
    world.finish_load("a1")
    assert world.engine.evict(["a1", "a2", "a3"], abort=False) == 0
    assert not world.engine.step()
    world.finish_load("a2")
    assert tokens_of(world.run()) == want
    world.engine.step()
    assert not world.engine.resident
    assert sorted(world.released) == sorted(world.started) == ["a1", "a2"]


def test_delete_takes_the_load_that_nobody_waits_for() -> None:
    world = make_world()
    world.holds_loads = True
    world.engine.add(Sequence("gone", [5, 6], 6, (Expert("a1"),)))
    world.engine.cancel("gone")
    world.engine.evict(["a1"], abort=False)
    assert (world.released, world.engine.pending_loads) == (["a1"], ())


def test_delete_spares_who_waits_for_what_only_the_device_still_has() -> None:
    world = make_world(max_rows=1)
    world.run(Sequence("warm", [5, 6], 2, (Expert("a1"),)))
    world.engine.add(Sequence("first", [5, 6], 6))
    world.engine.add(Sequence("waits", [5, 6], 6, (Expert("a1"),)))
    world.engine.step()
    del world.adapters["a1"]
    world.engine.evict(["a1"], abort=False)
    assert set(tokens_of(world.run())) == {"first", "waits"}
    world.engine.step()
    assert not world.engine.resident


@pytest.mark.parametrize("seed", range(4))
def test_whoever_was_accepted_before_a_deletion_finishes(seed: int) -> None:
    """The queue is longer than its loads, the slots are few, and what is deleted can be loaded by nobody any more."""
    r = random.Random(seed)
    sequences = [replace(sequence, max_tokens=3) for sequence in requests(seed, 24)]
    want = tokens_of(make_world().run(*[replace(sequence, max_tokens=3) for sequence in requests(seed, 24)]))
    world = make_world(num_slots=5, max_rows=2)
    arrived, updates = 0, []
    deleted: set[str] = set()
    while arrived < len(sequences) or world.engine.has_work:
        for sequence in sequences[arrived : arrived + r.randint(0, 6)]:
            arrived += 1
            if deleted.isdisjoint(sequence.digests):
                world.engine.add(sequence)
            else:
                del want[sequence.id]
        if world.adapters and r.random() < 0.15:
            digest = r.choice(sorted(world.adapters))
            world.engine.evict([digest], abort=False)
            world.adapters.pop(digest)
            deleted.add(digest)
        updates += world.engine.step()
    assert tokens_of(updates) == want
    world.engine.step()
    assert deleted.isdisjoint(world.engine.resident)
    assert sorted(world.released) == sorted(world.started)


def test_a_request_that_comes_after_a_deletion_does_not_keep_the_slot() -> None:
    world = make_world()
    world.engine.add(Sequence("before", [5, 6], 3, (Expert("a1"),)))
    world.engine.step()
    world.engine.evict(["a1"], abort=False)
    world.run(Sequence("after", [5, 6], 6, (Expert("a1"),)))
    world.engine.step()
    assert "a1" not in world.engine.resident
    world.run(Sequence("uploaded again", [5, 6], 6, (Expert("a1"),)))
    assert "a1" in world.engine.resident


def test_what_is_on_the_device_is_measured() -> None:
    world = make_world(num_slots=4)
    assert world.engine.resident_bytes == 0
    for digest in ("a0", "a1", "a2", "a3", "a0", "a0"):  # three slots
        world.run(Sequence("x", [5, 6], 2, (Expert(digest),)))
        assert world.engine.resident_bytes == sum(world.adapters[d].num_bytes for d in world.engine.resident)
    assert world.placed == [1.0] * 5  # nothing but the write lies between the two readings of the clock
    world.engine.evict(world.engine.resident, abort=True)
    assert world.engine.resident_bytes == 0


def test_usage_reports_sum_to_one_for_a_softmax() -> None:
    world = make_world()
    experts = tuple(Expert(f"a{i}", similarity=0.5 + 0.1 * i) for i in (0, 1, 2))
    prior = Composition(Weighting.ROUTER_WITH_PRIOR)
    for sequence in (Sequence("r", [5, 6, 7], 5, experts), Sequence("p", [5, 6, 7], 5, experts, prior)):
        world.run(sequence)
        total, layers = sequence.mean_weights()
        assert total.sum() == pytest.approx(1, abs=1e-5)
        assert layers.shape == (2, 3)
        assert layers.sum(1) == pytest.approx([1, 1], abs=1e-5)


def test_usage_is_the_same_however_often_the_batch_changes() -> None:
    together, alone = requests(1, 24), requests(1, 24)
    world, other = make_world(), make_world()
    world.run(*together)
    for sequence, twin in zip(together, alone, strict=True):
        other.run(twin)
        assert sequence.mean_weights()[0] == pytest.approx(twin.mean_weights()[0], abs=1e-5)


def test_usage_counts_every_token_of_every_touched_module_once() -> None:
    world = make_world()
    sequences = [Sequence(str(i), [5] * (i + 1), 3 + 2 * i, (Expert("a2"), Expert("a6"))) for i in range(4)]
    world.run(*sequences)
    for sequence in sequences:
        assert sequence.usage_counts is not None
        computed = len(sequence.prompt) + len(sequence.tokens) - 1  # nobody computes the last token
        assert sequence.usage_counts.tolist() == [7 * computed, 7 * computed, 0]


def test_a_batch_that_only_decodes_is_laid_out_once() -> None:
    laid_out: list[StepPlan] = []
    torch_form = torch_layout(torch.device("cpu"))

    def layout(plan: StepPlan, num_modules: int) -> Form:
        laid_out.append(plan)
        return torch_form(plan, num_modules)

    make_world(layout=layout).run(*[Sequence(str(i), [5, 6], 9, (Expert(f"a{i}"),)) for i in range(3)])
    assert len(laid_out) == 2  # the prompts, then the rest


@pytest.mark.parametrize(
    ("sequence", "error", "field"),
    [
        (Sequence("x", [], 4), InvalidInput, "prompt"),
        (Sequence("x", [5] * 90, 7), InvalidInput, "sampling.max_tokens"),
        (Sequence("x", [5], 4, tuple(Expert(f"a{i}") for i in range(4))), LimitExceeded, "adapters"),
    ],
)
def test_what_cannot_run_is_refused_with_the_field(sequence: Sequence, error: type[RamoleError], field: str) -> None:
    world = make_world(num_slots=4)
    with pytest.raises(error) as raised:
        world.engine.add(sequence)
    assert raised.value.field == field
    check_at_rest(world)


def test_a_request_that_needs_busy_slots_is_not_starved() -> None:
    world = make_world(num_slots=4)
    world.engine.add(Sequence("busy", [5], 8, (Expert("a0"),)))
    world.engine.step()
    big = Sequence("big", [5], 2, tuple(Expert(f"a{i}") for i in (1, 2, 3)))
    world.engine.add(big)
    admitted_before = 0
    updates = []
    for i in range(200):  # a stream of small requests that would always find a slot
        world.engine.add(Sequence(f"small{i}", [5], 3, (Expert("a0"),)))
        updates = world.engine.step()
        if any(u.sequence.id == "big" for u in updates):
            break
        admitted_before = i
    assert any(u.sequence.id == "big" for u in updates)
    assert admitted_before < 40
    assert big.skipped == MAX_SKIPS


def test_every_load_is_released_once_whatever_becomes_of_it() -> None:
    world = make_world(num_slots=6)
    world.run(*requests(6, 30), Sequence("bad", [5, 6], 4, (Expert("unknown"),)))
    world.holds_loads = True
    missing = next(digest for digest in world.adapters if not world.engine.holds(digest))
    world.engine.add(Sequence("cancelled", [5, 6], 4, (Expert(missing),)))
    world.engine.cancel("cancelled")
    world.finish_load(missing)
    world.run()
    world.engine.add(Sequence("evicted", [5, 6], 4, (Expert("also unknown"),)))
    world.engine.evict(["also unknown"], abort=True)
    world.run()
    world.engine.step()
    assert sorted(world.released) == sorted(world.started)


def test_a_long_queue_loads_for_its_head_only() -> None:
    world = make_world(max_rows=2, num_adapters=20)
    world.holds_loads = True
    for i in range(20):
        world.engine.add(Sequence(str(i), [5, 6], 1, (Expert(f"a{i}"),)))
    assert world.started == ["a0", "a1", "a2", "a3"]
    world.engine.step()
    assert world.engine.is_stalled
    finished = set()
    while world.engine.has_work:
        for digest in [digest for digest in world.started if digest not in finished]:
            finished.add(digest)
            world.finish_load(digest)
        assert not world.engine.is_stalled
        world.engine.step()
        assert len(set(world.started) - set(world.released)) <= 4
    assert finished == {f"a{i}" for i in range(20)}


def test_a_head_that_fails_makes_room_for_the_loads_behind_it() -> None:
    world = make_world(max_rows=2)
    world.holds_loads = True
    for i in range(4):
        world.engine.add(Sequence(f"bad{i}", [5, 6], 1, (Expert(f"unknown{i}"),)))
    world.engine.add(Sequence("good", [5, 6], 1, (Expert("a1"),)))
    for i in range(4):
        world.finish_load(f"unknown{i}")
    world.engine.step()
    assert "a1" in world.started


def test_without_a_limit_an_answer_may_be_as_long_as_fits() -> None:
    world = make_world()
    sequence = Sequence("x", [5] * 90, 0)
    tokens = tokens_of(world.run(sequence))["x"]
    assert len(tokens) == 6 or tokens[-1] == 2
    with pytest.raises(InvalidInput) as refused:
        world.engine.add(Sequence("x", [5] * 96, 0))
    assert refused.value.field == "prompt"
    assert "95" in refused.value.remedy
