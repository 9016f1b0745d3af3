"""Answers that do without something, because their requests allow it."""

from __future__ import annotations

import asyncio

import pytest

from ramole.client import UseAdapter
from ramole.core.composition import Composition, Weighting
from ramole.core.errors import (
    AdapterRefused,
    Corrupt,
    ExpertUnavailable,
    NotFound,
    RamoleError,
    Unavailable,
    WrongState,
)
from support.gateway_world import World


@pytest.mark.parametrize("error", [NotFound, Corrupt, AdapterRefused, WrongState])
async def test_a_named_adapter_that_cannot_be_loaded_is_left_out_and_told(
    world: World, error: type[RamoleError]
) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(error("bad"), 1)]
    named = [UseAdapter("a", weight=0.5), UseAdapter("b", weight=0.25), UseAdapter("c", weight=2.0)]
    answer = await world.client.complete(
        "go", adapters=named, composition=Composition(Weighting.EXPLICIT), allow_degraded=True
    )
    assert answer.text == "go"
    assert [each.ref.name for each in answer.routing.adapters] == ["a", "c"]
    assert [(each.ref.name, each.reason) for each in answer.routing.left_out] == [("b", error.reason())]
    assert answer.routing.composition.k == 2
    assert [each.ref.name for each in answer.usage.adapters] == ["a", "c"]
    assert [expert.weight for expert in world.executor.requests[-1].experts] == [0.5, 2.0]
    assert "Search" not in world.log, "it is not replaced"


async def test_when_none_is_left_the_base_model_answers(world: World) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(Corrupt("bad"), 0)] * 2
    answer = await world.client.complete("go", adapters=["a", "b"], allow_degraded=True)
    assert (answer.text, answer.routing.adapters, answer.routing.composition.k) == ("go", (), 0)
    assert [each.ref.name for each in answer.routing.left_out] == ["a", "b"]
    assert not answer.routing.has_fallen_back, "retrieval was not asked"


async def test_an_adapter_that_is_named_twice_is_left_out_once(world: World) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(Corrupt("bad"), 0)]
    answer = await world.client.complete("go", adapters=["a", "b", "a"], allow_degraded=True)
    assert [each.ref.name for each in answer.routing.adapters] == ["b"]
    assert [each.ref.name for each in answer.routing.left_out] == ["a"]


async def test_a_name_that_is_gone_meanwhile_does_not_fail_what_is_left(world: World) -> None:
    refs = {name: world.adapters.add(name, 2) for name in ("a", "b")}
    world.executor.gates["Execute"] = asyncio.Event()
    world.executor.failures["Execute"] = [ExpertUnavailable.of(NotFound("deleted"), 0)]
    asked = asyncio.create_task(world.client.complete("go", adapters=["a", "b"], allow_degraded=True))
    await world.executor.until("Execute")
    world.adapters.records.clear()
    world.executor.gates.pop("Execute").set()
    answer = await asked
    assert [each.ref.digest for each in answer.routing.adapters] == [refs["b"].digest]


@pytest.mark.parametrize("name", ["none", "a@7"])
async def test_an_unknown_name_is_a_mistake_all_the_same(world: World, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await world.client.complete("go", adapters=["a", name], allow_degraded=True)
    assert caught.value.field == "adapters[1].adapter"
    assert "Execute" not in world.log


async def test_what_is_retrieved_is_left_out_to_the_end(world: World) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(Corrupt("bad"), 0)] * 4
    answer = await world.client.complete("go", composition=Composition(k=2), allow_degraded=True)
    assert [each.ref.name for each in answer.routing.left_out] == ["a", "b", "c", "d"]
    assert answer.routing.adapters == ()
    assert answer.text == "go"


@pytest.mark.parametrize("method", ["Embed", "Search"])
async def test_without_retrieval_the_base_model_answers(world: World, method: str) -> None:
    broken = world.embedding if method == "Embed" else world.retrieval
    broken.failures[method] = [Unavailable("down")] * 2
    answer = await world.client.complete("go", allow_degraded=True)
    assert (answer.text, answer.routing.has_fallen_back, answer.routing.left_out) == ("go", True, ())


async def test_what_is_no_adapters_fault_still_fails(world: World) -> None:
    world.executor.failures["Execute"] = [WrongState("no router", field="composition.weighting")]
    with pytest.raises(WrongState, match="no router"):
        await world.client.complete("go", adapters=["a"], allow_degraded=True)


async def test_what_fails_after_the_first_piece_fails(world: World) -> None:
    world.executor.failures["step"] = [ExpertUnavailable.of(Corrupt("late"), 0)]
    with pytest.raises(Corrupt, match="late"):
        await world.client.complete("one two", adapters=["a"], allow_degraded=True)
