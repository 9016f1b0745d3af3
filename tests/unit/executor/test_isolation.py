"""No request changes another's answer, whatever the neighbours are and whatever places they leave behind.

Neighbours here have passed no admission: weights of 1e38 and NaN, scales that overflow, a base that raises on them.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.core.errors import Cancelled, Internal, InvalidInput
from ramole.core.sampling import Sampling
from ramole.executor.engine import Update
from ramole.executor.sampler import Sampler
from ramole.executor.sequence import Sequence
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.layer import SlotShape
from ramole.mixture.native import load_kernel, native_layout
from ramole.mixture.step import Layout
from ramole.mixture.torch_form import torch_layout
from support.engine_world import World, make_engine, random_adapter, tiny_llama

CPU = torch.device("cpu")
SHAPE = SlotShape(num_slots=6, slot_rank=8, router_rank=4)
POISON = 96
"""A token on which the base raises."""

HOSTILE = {"nan": float("nan"), "inf": float("inf"), "huge": 3e38, "large": 1e19, "tiny": 1e-45}


def layout_of(form: str) -> Layout:
    if form == "torch":
        return torch_layout(CPU)
    if form == "triton":
        pytest.importorskip("triton", reason="triton is not installed: ITS KERNELS ARE NOT TESTED")
        from ramole.mixture.triton_form import triton_layout

        return triton_layout(CPU, SHAPE)
    kernel = load_kernel()
    if kernel is None:
        pytest.skip("numba does not work here: THE NATIVE FORM IS NOT TESTED")
    return native_layout(kernel, SHAPE)


def adapters_of(model: torch.nn.Module) -> dict[str, AdapterWeights]:
    good = {f"a{i}": random_adapter(model, i, [2, 4, 8][i % 3], ("_proj",)) for i in range(4)}
    model_pairs = good["a0"].pairs
    bad = {
        name: AdapterWeights({key: LoraPair(pair.a, pair.b * 0 + value) for key, pair in model_pairs.items()})
        for name, value in HOSTILE.items()
    }
    return {**good, **bad}


def explode_on_poison(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
    if (kwargs["input_ids"] == POISON).any():
        raise RuntimeError("a kernel that does not like this token")


def never_answer_poison(module: torch.nn.Module, args: Any, output: Any) -> None:
    output.logits[..., POISON] = -torch.inf  # as bases do with ids that stand for nothing


def make_world(form: str) -> World:
    if torch.cuda.is_available() and form == "triton":
        pytest.skip("tests/gpu has this form")
    model = tiny_llama()
    model.register_forward_pre_hook(explode_on_poison, with_kwargs=True)
    model.register_forward_hook(never_answer_poison)
    return make_engine(model, adapters_of(model), num_slots=6, max_rows=4, token_budget=24, layout=layout_of(form))


@dataclass(frozen=True)
class Bystander:
    """A legal request; what it gets alone is what it must get."""

    seed: int

    def sequence(self, id_: str) -> Sequence:
        r = random.Random(self.seed)
        experts = tuple(
            Expert(f"a{j}", similarity=r.uniform(0, 1), weight=r.uniform(-0.5, 1))
            for j in r.sample(range(4), r.randint(0, 3))
        )
        composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1)
        prompt = [r.randrange(3, 90) for _ in range(r.choice([1, 4, 30]))]
        sampler = Sampler(Sampling(temperature=0.8), self.seed, CPU) if r.random() < 0.4 else None
        return Sequence(
            id_, prompt, r.randint(2, 9), experts, composition, sampler=sampler, wants_logprobs=r.random() < 0.5
        )


def hostile(r: random.Random, id_: str) -> Sequence:
    """Anything that might leave something behind."""
    composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1)
    experts = tuple(Expert(d) for d in r.sample([*HOSTILE, "a0", "a1"], r.randint(0, 3)))
    if r.random() < 0.5:  # past every bound
        object.__setattr__(composition, "scale", r.choice([3.4e38, -3e38, 1e-45, float("nan")]))
        for expert in experts:
            object.__setattr__(expert, "weight", r.choice([3.4e38, float("inf"), 1e-40]))
    sampler = Sampler(Sampling(temperature=0.001), 1, CPU) if r.random() < 0.3 else None
    if sampler is not None and r.random() < 0.5:
        sampler._processors = [lambda ids, scores: 1 / 0]
    prompt = [r.randrange(3, 90) for _ in range(r.choice([1, 5, 40]))]
    if r.random() < 0.2:
        prompt[r.randrange(len(prompt))] = POISON
    return Sequence(
        id_, prompt, r.randint(1, 40), experts, composition, sampler=sampler, wants_logprobs=r.random() < 0.3
    )


def outcome(updates: list[Update], id_: str) -> tuple[list[int | None], list[float | None], list[float]]:
    own = [u for u in updates if u.sequence.id == id_]
    assert [u.error for u in own if u.error] == []
    assert own[-1].is_last
    weights = own[-1].sequence.mean_weights()[0].tolist()
    return [u.token for u in own], [u.logprob for u in own], weights


class Alone:
    """What each bystander gets with the engine for itself, worked out once."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._known: dict[int, Any] = {}

    def __call__(self, bystander: Bystander) -> Any:
        if bystander.seed not in self._known:
            updates = make_world(self._form).run(bystander.sequence("x"))
            self._known[bystander.seed] = outcome(updates, "x")
        return self._known[bystander.seed]


def drive(form: str, seed: int, alone: Alone, steps: int) -> None:
    """Bystanders and hostile requests arrive, run, are cancelled, revoked; every row and slot is used many times."""
    r = random.Random(seed)
    world = make_world(form)
    engine = world.engine
    updates: list[Update] = []
    bystanders: dict[str, Bystander] = {}
    hostiles: list[str] = []
    for i in range(steps):
        if r.random() < 0.35 and engine.num_waiting < 4:
            bystanders[f"b{i}"] = bystander = Bystander(r.randrange(12))
            engine.add(bystander.sequence(f"b{i}"))
        if r.random() < 0.45 and engine.num_waiting < 6:
            hostiles.append(f"h{i}")
            with suppress(Exception):  # its own caller hears of it, nobody else
                engine.add(hostile(r, f"h{i}"))
        if hostiles and r.random() < 0.2:
            engine.cancel(r.choice(hostiles))
        if r.random() < 0.15:
            engine.evict([r.choice(list(HOSTILE))], abort=r.random() < 0.5)
        updates += engine.step()
    while engine.has_work:
        updates += engine.step()
    for id_, bystander in bystanders.items():
        tokens, logprobs, weights = outcome(updates, id_)
        want_tokens, want_logprobs, want_weights = alone(bystander)
        assert tokens == want_tokens
        assert logprobs == pytest.approx(want_logprobs, abs=1e-4)
        assert weights == pytest.approx(want_weights, abs=1e-4)
    scheduler = engine._scheduler
    assert not scheduler.running
    assert not scheduler.slots._refs
    kv = engine._runner.kv
    assert all(not t.any() for t in [*kv.keys, *kv.values])  # nothing is left for whoever comes next


@pytest.fixture(scope="module", params=["torch", "native"])
def form(request: pytest.FixtureRequest) -> tuple[str, Alone]:
    return request.param, Alone(request.param)


@given(seed=st.integers(0, 10**9))
@settings(
    max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # a seed does not shrink
def test_bystanders_get_what_they_get_alone(form: tuple[str, Alone], seed: int) -> None:
    drive(*form[:1], seed, form[1], steps=40)


def test_bystanders_get_what_they_get_alone_on_the_gpus_kernels() -> None:
    drive("triton", 7, Alone("triton"), steps=10)


def test_a_row_left_with_nan_harms_nobody() -> None:
    """The request that showed it: OK with an empty text, and the next one in its row answered from NaN."""
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
    kv.keys[0][0, :, :20] = 3e38
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
