"""A running sequence gets other experts: its tokens stay, what they mean is computed anew, and nobody else notices."""

from __future__ import annotations

import pytest

from ramole.core.composition import Composition, Expert, Weighting
from ramole.core.errors import LimitExceeded
from ramole.executor.sequence import Sequence
from support.engine_world import World, make_world

EXPLICIT = Composition(Weighting.EXPLICIT)


def make(**options: object) -> World:
    world = make_world(**options)  # type: ignore[arg-type]
    world.engine._eos = frozenset()
    return world


def bystanders() -> list[Sequence]:
    return [Sequence(f"by{i}", [5 + i] * (3 + 20 * i), 40, (Expert(f"a{i}"),)) for i in range(3)]


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("cold", [False, True])
def test_it_goes_on_as_a_request_that_begins_with_its_prompt_and_answer(reuse: bool, cold: bool) -> None:
    want = {s.id: s for s in bystanders()}
    make().run(*want.values())
    world = make(prefix_reuse=reuse)
    beside, x = bystanders(), Sequence("x", [9] * 20, 30, (Expert("a4"), Expert("a5")), EXPLICIT)
    for sequence in (*beside, x):
        world.engine.add(sequence)
    while len(x.tokens) < 12:
        world.engine.step()
    before, num_beside = list(x.tokens), len(beside[0].tokens)
    world.holds_loads = cold
    world.engine.reroute("x", (Expert("a6"),), EXPLICIT)
    world.engine.step()
    assert len(beside[0].tokens) == num_beside + 1, "nothing else stops"
    if cold:
        assert not x.blocks
        world.finish_load("a6")
    world.run()
    assert x.tokens[:12] == before[:12]
    after = Sequence("after", [*x.prompt, *before], 30 - len(before), (Expert("a6"),), EXPLICIT)
    make().run(after)
    assert x.tokens[len(before) :] == after.tokens
    assert x.mean_weights()[0] == pytest.approx(after.mean_weights()[0])
    assert x.usage_counts is not None
    assert after.usage_counts is not None
    assert x.usage_counts.tolist() == after.usage_counts.tolist()
    for sequence in beside:
        assert sequence.tokens == want[sequence.id].tokens
        assert sequence.mean_weights()[0] == pytest.approx(want[sequence.id].mean_weights()[0], abs=1e-5)
    assert world.engine.memory.num_pinned == world.engine.memory.num_used_blocks == 0


def test_one_that_waits_begins_with_them() -> None:
    world = make(max_rows=1)
    world.engine.add(Sequence("first", [5], 5))
    world.engine.add(x := Sequence("x", [9] * 20, 8, (Expert("a4"),)))
    world.engine.step()
    world.engine.reroute("x", (Expert("a6"),), EXPLICIT)
    world.run()
    make().run(want := Sequence("x", [9] * 20, 8, (Expert("a6"),), EXPLICIT))
    assert x.tokens == want.tokens


def test_what_cannot_be_leaves_it_as_it_is() -> None:
    world = make(num_slots=3)
    world.engine.add(x := Sequence("x", [9] * 20, 8, (Expert("a4"),)))
    world.engine.step()
    with pytest.raises(LimitExceeded):
        world.engine.reroute("x", tuple(Expert(f"a{i}") for i in range(3)), EXPLICIT)
    world.engine.reroute("never heard of", (), EXPLICIT)
    world.run()
    make().run(want := Sequence("x", [9] * 20, 8, (Expert("a4"),)))
    assert x.tokens == want.tokens


def test_those_that_were_put_back_do_not_wait_for_each_others_slots() -> None:
    """The one needs the slot that the other holds, which waits for blocks only."""
    world = make(num_slots=3, num_blocks=6)
    old = Sequence("old", [5] * 30, 60, (Expert("a0"),))
    young = Sequence("young", [7] * 30, 40, (Expert("a1"),))
    for sequence in (old, young):
        world.engine.add(sequence)
    while not young.num_preempted:
        world.engine.step()
    world.engine.reroute("old", (Expert("a2"), Expert("a3")), EXPLICIT)
    world.run()
    assert (len(old.tokens), len(young.tokens)) == (60, 40)
