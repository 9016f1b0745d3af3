"""Answers in parts: what is asked of whom between two of them, and what the reports say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ramole.client import Chunk, PartEnd, Routing, Usage, UseAdapter
from ramole.core.composition import PRESETS, Composition, Reroute, Weighting
from ramole.core.errors import Corrupt, ExpertUnavailable, InvalidInput, NotFound, RamoleError, Unavailable
from ramole.core.sampling import Sampling
from ramole.v1 import common_pb2
from support.gateway_world import World

ALONE = PRESETS["selection"]
AT = replace(ALONE, reroute=Reroute.AT, separators=(";",))
AT_END = replace(ALONE, reroute=Reroute.AT_END)


async def events_of(world: World, prompt: str, composition: Composition, **more: Any) -> list[Any]:
    return [event async for event in world.client.generate(prompt, composition=composition, **more)]


def used(events: list[Any]) -> list[list[str]]:
    return [[each.ref.name for each in event.adapters] for event in events if isinstance(event, Routing)]


def said(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, Chunk)]


async def test_each_part_is_routed_without_who_has_answered_and_goes_on_with_its_tokens(world: World) -> None:
    events = await events_of(world, "one; two three; four", AT)
    assert used(events) == [["a"], ["b"], ["c"]]
    assert [event.part for event in events if isinstance(event, Routing)] == [0, 1, 2]
    assert said(events) == ["one;", "two", "three;", "four"]
    kinds = [type(event) for event in events]
    assert kinds == [Routing, Chunk, Routing, Chunk, Chunk, Routing, Chunk, Usage]
    assert world.embedding.texts == ["one; two three; four"] * 3
    assert world.embedding.answers == [[], [0], [0, 1, 2]]
    asked = [sorted(ref.name for ref in search.without) for search in world.retrieval.searches]
    assert asked == [[], ["a"], ["a", "b"]]
    requests = world.executor.requests
    assert [list(request.answer_token_ids) for request in requests] == [[], [0], [0, 1, 2]]
    assert [list(request.part_ends) for request in requests] == [[";"]] * 3
    assert {request.prompt for request in requests} == {"one; two three; four"}
    assert all(not request.composition.separators for request in requests)


async def test_the_report_joins_the_parts(world: World) -> None:
    usage = (await events_of(world, "one; two three; four", AT))[-1]
    assert [part.completion_tokens for part in usage.parts] == [1, 2, 1]
    assert [part.num_chars for part in usage.parts] == [4, 9, 4]
    assert [part.end for part in usage.parts] == [PartEnd.SEPARATOR, PartEnd.SEPARATOR, None]
    assert [part.adapters[0].ref.name for part in usage.parts] == ["a", "b", "c"]
    assert [part.adapters[0].mean_weight for part in usage.parts] == [0.25] * 3
    assert [(used.ref.name, used.mean_weight) for used in usage.adapters] == [
        ("a", 0.0625),
        ("b", 0.125),
        ("c", 0.0625),
    ]
    assert usage.adapters[1].layer_weights == (0.125, 0.25)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.finish_reason) == (3, 4, "length")
    assert (usage.queue_s, usage.prefill_s, usage.decode_s) == (1.5, 0.75, 2.25)
    whole = await world.client.complete("one; two three; four", composition=AT)
    assert whole.text == "one;twothree;four"
    assert [each.adapters[0].ref.name for each in (whole.routing, *whole.later_routings)] == ["a", "b", "c"]
    assert whole.usage.parts[1].num_chars == 9


async def test_there_are_no_more_parts_than_asked_for(world: World) -> None:
    events = await events_of(world, "1; 2; 3; 4; 5; 6;", replace(AT, max_parts=2))
    assert used(events) == [["a"], ["b"]]
    assert len(said(events)) == 6
    assert list(world.executor.requests[-1].part_ends) == []
    world.log.clear()
    await events_of(world, "1; 2; 3; 4; 5; 6;", AT)
    assert world.log.count("Execute") == 4, "unless more are asked for"


async def test_without_re_routing_nothing_is_new(world: World) -> None:
    events = await events_of(world, "one; two", ALONE)
    assert used(events) == [["a"]]
    assert events[-1].parts == ()
    [request] = world.executor.requests
    assert (list(request.part_ends), request.part_at_end, list(request.next_digests)) == ([], False, [])


async def test_who_may_come_next_is_told_the_executor(world: World) -> None:
    await events_of(world, "one; two", replace(AT, max_parts=2))
    first, last = world.executor.requests
    digests = {record.adapter.name: record.adapter.digest for record in world.adapters.live()}
    assert list(first.next_digests) == [digests[name] for name in "bcd"]
    assert list(last.next_digests) == []


async def test_when_everybody_has_answered_who_did_last_goes_on(world: World) -> None:
    world.retrieval.rows = dict(list(world.retrieval.rows.items())[:2])
    events = await events_of(world, "1; 2; 3; 4;", AT)
    assert used(events) == [["a"], ["b"], ["b"]]
    assert len(said(events)) == 4


async def test_re_routing_alone_asks_for_the_nearest_adapter_alone(world: World) -> None:
    composition = common_pb2.Composition(reroute=common_pb2.REROUTE_AT, separators=[";"])
    from ramole.transport.values import composition_from_pb

    assert composition_from_pb(composition, PRESETS["calibrated"]) == AT
    composition.k = 2
    assert composition_from_pb(composition, PRESETS["mixture"]) == replace(
        PRESETS["mixture"], k=2, reroute=Reroute.AT, separators=(";",)
    )


async def test_doubt_is_of_whole_prompts(world: World) -> None:
    world.retrieval.doubt = 0.75
    events = await events_of(world, "1; 2", replace(AT, **spread_of("calibrated")))
    first, later = (event for event in events if isinstance(event, Routing))
    assert (first.doubt, first.composition.spread) == (0.75, 0.75)
    assert (later.doubt, later.composition.spread) == (None, pytest.approx(0.35))


def spread_of(preset: str) -> dict[str, Any]:
    calibrated = PRESETS[preset]
    return {"weighting": calibrated.weighting, "k": 2, "spread": calibrated.spread, "is_adaptive": True}


async def test_later_parts_see_no_more_than_the_first(world: World) -> None:
    others = world.adapters.add("aa", tenant="others")
    world.retrieval.rows = {key: row for key, row in world.retrieval.rows.items() if row.name in "ac"}
    world.retrieval.add(others)
    assert used(await events_of(world, "1; 2; 3;", AT)) == [["a"], ["c"], ["c"]]
    await events_of(world, "1; 2;", AT, tags=["t"])
    assert [list(search.tags) for search in world.retrieval.searches[-2:]] == [["t"], ["t"]]
    assert {search.tenant for search in world.retrieval.searches} == {"default"}


# The adapters' end


async def test_where_the_adapters_end_the_base_says_whether_the_answer_goes_on(world: World) -> None:
    events = await events_of(world, "one two. three four.", AT_END, sampling=Sampling(temperature=0.5, seed=1))
    assert said(events) == ["one", "two.", "and", "three", "four.", "and"]
    assert used(events) == [["a"], ["b"], ["c"]]
    ran = [(bool(request.experts), request.part_tokens) for request in world.executor.requests]
    assert ran == [(True, 0), (False, 1), (True, 0), (False, 1), (True, 0)]
    assert [request.sampling.temperature for request in world.executor.requests] == [0.5, 0, 0.5, 0, 0.5]
    assert [part.end for part in events[-1].parts] == [PartEnd.ADAPTERS, PartEnd.ADAPTERS, None]
    assert [part.completion_tokens for part in events[-1].parts] == [3, 3, 0]


async def test_a_base_that_ends_too_ends_the_answer(world: World) -> None:
    world.executor.glue = ""
    events = await events_of(world, "one two. three four.", AT_END)
    assert said(events) == ["one", "two."]
    assert [part.end for part in events[-1].parts] == [None]
    assert events[-1].finish_reason == "stop"


async def test_the_last_part_is_not_asked_about(world: World) -> None:
    events = await events_of(world, "one. two. three.", replace(AT_END, max_parts=2))
    assert said(events) == ["one.", "and", "two.", "three."]
    assert [request.part_at_end for request in world.executor.requests] == [True, False, False]


# Named adapters


async def test_of_named_adapters_the_nearest_that_has_not_answered_comes_next(world: World) -> None:
    named = ["d", UseAdapter("b", scale=2.0), "c"]
    events = await events_of(world, "1; 2; 3; 4;", AT, adapters=named)
    assert used(events) == [["b"], ["c"], ["d"]]
    assert len(said(events)) == 4, "the last one goes on"
    among = [sorted(ref.name for ref in search.among) for search in world.retrieval.searches]
    assert among == [["b", "c", "d"], ["c", "d"], ["d"]]
    assert [request.experts[0].scale for request in world.executor.requests] == [2.0, 1.0, 1.0]
    assert world.log.count("GetStored") == 3, "names are looked up once"


async def test_named_adapters_that_nobody_can_find_come_last_as_they_were_named(world: World) -> None:
    world.adapters.add("z")
    world.adapters.add("y")
    assert used(await events_of(world, "1; 2; 3;", AT, adapters=["z", "y", "a"])) == [["a"], ["z"], ["y"]]


async def test_explicit_weights_are_each_ones_own(world: World) -> None:
    explicit = replace(AT, weighting=Weighting.EXPLICIT)
    await events_of(world, "1; 2", explicit, adapters=[UseAdapter("a", weight=0.5), UseAdapter("b", weight=0.25)])
    assert [request.experts[0].weight for request in world.executor.requests] == [0.5, 0.25]


# What goes wrong in the middle


@pytest.mark.parametrize("method", ["Embed", "Search"])
async def test_retrieval_that_is_down_by_then_fails_or_leaves_the_base_alone(world: World, method: str) -> None:
    broken = world.embedding if method == "Embed" else world.retrieval

    async def ask(**more: Any) -> list[Any]:
        broken.failures[method] = [None, Unavailable("down"), Unavailable("down")]  # the second part, tried twice
        return [event async for event in world.client.generate("1; 2 3; 4", composition=AT, **more)]

    with pytest.raises(Unavailable, match="down"):
        await ask()
    for allowed in ("may_fall_back", "allow_degraded"):
        events = await ask(**{allowed: True})
        assert used(events) == [["a"], [], ["b"]], "it is asked again for the part behind"
        assert [event.has_fallen_back for event in events if isinstance(event, Routing)] == [False, True, False]
        assert said(events) == ["1;", "2", "3;", "4"]


@pytest.mark.parametrize("error", [NotFound, Corrupt])
async def test_an_adapter_that_is_gone_by_then_is_routed_around(world: World, error: type[RamoleError]) -> None:
    events = []
    async for event in world.client.generate("1; 2; 3", composition=AT):
        events.append(event)
        if isinstance(event, Chunk) and event.text == "1;":
            world.executor.failures["Execute"] = [ExpertUnavailable.of(error("gone"), 0)]
    assert used(events) == [["a"], ["c"], ["d"]]
    assert [[left.ref.name for left in e.left_out] for e in events if isinstance(e, Routing)] == [[], ["b"], ["b"]]
    assert said(events) == ["1;", "2;", "3"]


async def test_a_named_adapter_that_is_gone_by_then_fails_by_its_name_or_is_left_out(world: World) -> None:
    async def ask(**more: Any) -> list[Any]:
        events = []
        async for event in world.client.generate("1; 2; 3", composition=AT, adapters=["c", "b", "a"], **more):
            events.append(event)
            if isinstance(event, Chunk) and event.text == "1;":
                world.executor.failures["Execute"] = [ExpertUnavailable.of(NotFound("gone"), 0)]
        return events

    with pytest.raises(NotFound, match="gone") as caught:
        await ask()
    assert caught.value.field == "adapters[1].adapter"
    events = await ask(allow_degraded=True)
    assert used(events) == [["a"], ["c"], ["c"]]
    assert said(events) == ["1;", "2;", "3"]


async def test_what_fails_inside_a_later_part_fails_the_answer(world: World) -> None:
    async def ask() -> None:
        async for event in world.client.generate("1; 2 3; 4", composition=AT):
            if isinstance(event, Chunk) and event.text == "2":
                world.executor.failures["step"] = [NotFound("late")]

    with pytest.raises(NotFound, match="late"):
        await ask()
    assert world.executor.num_running == 0


async def test_whoever_leaves_between_two_parts_leaves_nothing(world: World) -> None:
    world.retrieval.gates["Search"] = gate = asyncio.Event()
    gate.set()
    events = world.client.generate("1; 2", composition=AT)
    assert isinstance(await anext(events), Routing)
    gate.clear()
    world.retrieval.entered["Search"].clear()
    assert isinstance(await anext(events), Chunk)
    waiting = asyncio.ensure_future(anext(events))
    await world.retrieval.until("Search")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await events.aclose()
    gate.set()
    async with asyncio.timeout(10):
        while world.servers["gateway"].inflight:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    assert world.log.count("Execute") == 1


# What is refused


@pytest.mark.parametrize(
    ("fields", "named", "field"),
    [
        ({"reroute": 2}, [], "separators"),
        ({"separators": [";"]}, [], "separators"),
        ({"reroute": 1, "separators": [";"]}, [], "separators"),
        ({"max_parts": 3}, [], "max_parts"),
        ({"reroute": 3, "max_parts": 1}, [], "max_parts"),
        ({"reroute": 3, "max_parts": 9}, [], "max_parts"),
        ({"reroute": 9}, [], "reroute"),
        ({"reroute": 3, "separators": [""]}, [], "separators"),
        ({"reroute": 3, "separators": ["x"] * 9}, [], "separators"),
        ({"reroute": 3}, ["a"], "reroute"),
        ({"reroute": 3, "k": 0}, [], "reroute"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], named: list[str], field: str) -> None:
    from ramole.core.settings import GatewaySettings
    from ramole.gateway.codec import order_from_pb
    from ramole.v1.gateway_pb2 import GenerateRequest

    request = GenerateRequest(prompt="x", composition=fields, adapters=[{"adapter": name} for name in named])  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as caught:
        order_from_pb(request, GatewaySettings())
    assert caught.value.field == f"composition.{field}"
    assert caught.value.remedy
