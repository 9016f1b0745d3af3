"""Prefixes are reused where they are the same to the digest and the weight, and nowhere else."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.core.errors import Cancelled
from ramole.executor.sequence import Sequence
from support.engine_world import World, make_world

PROMPT = [3 + i * 7 % 90 for i in range(50)]
PAIR = (Expert("a0", weight=0.5), Expert("a1", weight=0.25))
BASE: dict[str, Any] = {
    "prompt": PROMPT,
    "max_tokens": 4,
    "experts": PAIR,
    "composition": Composition(Weighting.EXPLICIT),
    "tenant": "acme",
}


def request(id_: str, **changes: Any) -> Sequence:
    return Sequence(id_, **BASE | changes)


@pytest.fixture
def world() -> World:
    world = make_world(prefix_reuse=True)
    world.engine._eos = frozenset()
    return world


def num_reused(world: World, sequence: Sequence) -> int:
    """Tokens of a sequence that the engine does not compute."""
    before = world.engine.figures.num_reused
    assert not [u.error for u in world.run(sequence) if u.error]
    return world.engine.figures.num_reused - before


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, 48),
        ({"prompt": [*PROMPT, 9, 9, 9]}, 48),
        ({"prompt": PROMPT[:48]}, 32),  # its last token is computed: the next hangs on it
        ({"prompt": PROMPT[:49]}, 48),
        ({"prompt": [*PROMPT[:20], 9, *PROMPT[21:]]}, 16),
        ({"prompt": [9, *PROMPT[1:]]}, 0),
        ({"tenant": "globex"}, 0),
        ({"experts": ()}, 0),
        ({"experts": PAIR[:1]}, 0),
        ({"experts": (PAIR[0], replace(PAIR[1], digest="a2"))}, 0),
        ({"experts": (PAIR[0], replace(PAIR[1], weight=0.26))}, 0),
        ({"experts": (PAIR[0], replace(PAIR[1], scale=0.9))}, 0),
        ({"experts": PAIR[::-1]}, 0),
        ({"experts": (PAIR[0], replace(PAIR[1], similarity=0.7))}, 48),  # explicit weights do not look at it
        ({"composition": Composition(Weighting.EXPLICIT, scale=0.5)}, 0),
        ({"composition": Composition(Weighting.EXPLICIT, Merge.PARAMETERS)}, 0),
        ({"composition": Composition(Weighting.ROUTER)}, 0),
    ],
)
def test_only_what_is_the_same_is_reused(world: World, changes: dict[str, Any], want: int) -> None:
    world.run(request("first"))
    assert num_reused(world, request("second", **changes)) == want


@pytest.mark.parametrize("weighting", list(Weighting))
def test_a_mixture_of_similarities_is_reused_with_the_same_ones_only_and_a_routed_one_never(
    world: World, weighting: Weighting
) -> None:
    experts = (Expert("a0", 0.8), Expert("a1", 0.6))
    composition = Composition(weighting, tau=0.1)
    world.run(request("first", experts=experts, composition=composition))
    assert num_reused(world, request("same", experts=experts, composition=composition)) == 48 * (
        not weighting.is_routed
    )
    other = (experts[0], replace(experts[1], similarity=0.61))
    depends = weighting is Weighting.SIMILARITY or weighting.is_routed
    assert num_reused(world, request("other", experts=other, composition=composition)) == 48 * (not depends)


def test_a_conversation_goes_on_where_it_was(world: World) -> None:
    first = request("first", max_tokens=20)
    world.run(first)
    prompt = [*PROMPT, *first.tokens, 11, 12]
    assert num_reused(world, request("second", prompt=prompt)) == 64


def test_whoever_begins_alike_at_the_same_time_shares_blocks(world: World) -> None:
    world.engine.add(first := request("first", max_tokens=30))
    world.engine.step()
    world.engine.add(second := request("second", max_tokens=30))
    world.engine.step()
    assert first.blocks[:3] == second.blocks[:3]
    assert not set(first.blocks[3:]) & set(second.blocks[3:])
    world.run()
    assert first.tokens == second.tokens


@pytest.mark.parametrize("budget", [64, 13])
def test_answers_and_reports_are_those_without(budget: int) -> None:
    """Chunks begin elsewhere, which may round otherwise: the tokens of a float32 base are the same, its numbers nearly.

    Also with so few blocks that what is kept makes room all the time."""
    r = random.Random(5)
    stems = [[r.randrange(3, 97) for _ in range(40)] for _ in range(3)]
    worlds = [
        make_world(token_budget=budget, prefix_reuse=reuse, num_blocks=num_blocks)
        for reuse, num_blocks in ((False, None), (True, None), (True, 12))
    ]
    drawn = [
        (stems[i % 3][: r.randint(10, 40)] + [r.randrange(3, 97)] * r.randint(1, 30), r.randint(2, 20), i % 4)
        for i in range(24)
    ]
    answers = []
    for world in worlds:
        sequences = [
            Sequence(str(i), prompt, count, PAIR[:num], Composition(Weighting.EXPLICIT), wants_logprobs=True)
            for i, (prompt, count, num) in enumerate(drawn)
        ]
        updates = world.run(*sequences[:12]) + world.run(*sequences[12:])
        logprobs = {s.id: [u.sampled.logprob for u in updates if u.sequence is s and u.sampled] for s in sequences}
        answers.append(([s.tokens for s in sequences], logprobs, [s.mean_weights()[0].tolist() for s in sequences]))
    assert worlds[0].engine.figures.num_asked == worlds[0].engine.figures.num_reused == 0
    assert worlds[1].engine.figures.num_asked == sum(len(prompt) for prompt, _, _ in drawn)
    assert worlds[1].engine.figures.num_reused > 200
    for tokens, logprobs, weights in answers[1:]:
        assert tokens == answers[0][0]
        for id_, values in logprobs.items():
            assert values == pytest.approx(answers[0][1][id_], abs=1e-4)
        for i, own in enumerate(weights):
            assert own == pytest.approx(answers[0][2][i], abs=1e-5)


def test_a_second_upload_under_the_same_name_is_another_adapter(world: World) -> None:
    """A name is no key: its next version has another digest."""
    world.run(request("before", experts=(Expert("a0"),)))
    assert num_reused(world, request("after", experts=(Expert("a3"),))) == 0


@pytest.mark.parametrize("abort", [True, False])
def test_what_leaves_takes_its_prefixes_along(world: World, abort: bool) -> None:
    world.run(request("first"), request("bare", experts=()))
    kept = world.engine.memory.num_kept_blocks
    world.engine.evict(["a1"], abort=abort)
    assert world.engine.memory.num_kept_blocks == kept - 3
    kv = world.engine._runner.kv
    assert sum(bool(block.any()) for block in kv.keys[0]) == 3, "what is left is the bare base's"
    assert num_reused(world, request("second")) == 0
    assert num_reused(world, request("bare again", experts=())) == 48


def test_what_is_computed_while_its_adapter_leaves_is_not_kept(world: World) -> None:
    world.engine.add(first := request("first", max_tokens=40))
    world.engine.step()
    world.engine.evict(["a1"], abort=False)
    world.run()
    assert len(first.tokens) == 40
    world.engine.step()
    assert world.engine.memory.num_kept_blocks == 0


def test_a_revocation_for_one_tenant_lets_another_go_on_but_keeps_nothing(world: World) -> None:
    experts = tuple(replace(expert, tenant="acme") for expert in PAIR)
    theirs = request("theirs", max_tokens=40, tenant="globex")
    world.engine.add(request("ours", max_tokens=40, experts=experts))
    world.engine.add(theirs)
    world.engine.step()
    assert world.engine.evict(["a1"], abort=True, tenant="acme") == 1
    errors = [u.error for u in world.run() if u.error]
    assert [type(error) for error in errors] == [Cancelled]
    assert len(theirs.tokens) == 40
    world.engine.step()
    assert world.engine.memory.num_kept_blocks == 0


def test_what_failed_is_met_by_nobody(world: World) -> None:
    composition = Composition(Weighting.EXPLICIT)
    object.__setattr__(composition, "scale", 3e38)
    world.run(request("bad", composition=composition))
    assert world.engine.memory.num_kept_blocks == 0


def test_without_the_setting_nothing_is_kept() -> None:
    world = make_world()
    world.run(request("first"))
    assert num_reused(world, request("second")) == world.engine.memory.num_kept_blocks == 0
