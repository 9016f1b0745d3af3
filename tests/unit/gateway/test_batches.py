"""Whole answers, and several of them in one call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from ramole.client import Chunk, Request, Routing, Usage
from ramole.core.composition import Composition
from ramole.core.errors import Corrupt, InvalidInput, LimitExceeded, NotFound, RamoleError, Unavailable
from ramole.core.sampling import Sampling
from ramole.core.settings import TenantLimitSettings
from support.gateway_world import World


async def answers(world: World, requests: Sequence[str | Request]) -> dict[int, list[Any]]:
    """The events of each request."""
    got: dict[int, list[Any]] = defaultdict(list)
    async for index, event in world.client.generate_batch(requests):
        got[index].append(event)
    return got


def text(events: list[Any]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Chunk))


async def test_a_whole_answer_is_what_the_stream_tells(world: World) -> None:
    sampling = Sampling(logprobs=True)
    streamed = [event async for event in world.client.generate("one two three", sampling=sampling)]
    whole = await world.client.complete("one two three", sampling=sampling)
    chunks = [event for event in streamed if isinstance(event, Chunk)]
    assert whole.text == "".join(chunk.text for chunk in chunks) == "onetwothree"
    assert whole.token_ids == tuple(token for chunk in chunks for token in chunk.token_ids)
    assert whole.logprobs == (-1.0, -1.0, -1.0)
    assert whole.routing.adapters == next(e for e in streamed if isinstance(e, Routing)).adapters
    assert whole.usage.adapters == next(e for e in streamed if isinstance(e, Usage)).adapters


async def test_a_whole_answer_fails_as_the_stream_does(world: World) -> None:
    for prompt, kind, field in (("", InvalidInput, "prompt"), ("x" * 101, InvalidInput, "prompt")):
        with pytest.raises(kind) as caught:
            await world.client.complete(prompt)
        assert caught.value.field == field
    world.executor.failures["step"] = [NotFound("late")]
    with pytest.raises(NotFound, match="late"):
        await world.client.complete("one two")


async def test_each_request_of_a_batch_has_its_own_answer(world: World) -> None:
    requests: list[str | Request] = [f"prompt {i}" for i in range(30)]
    requests += [Request(f"prompt {i}", adapters=["d"]) for i in range(30, 60)]
    requests += [Request(f"prompt {i}", composition=Composition(k=0)) for i in range(60, 64)]
    got = await answers(world, requests)
    assert sorted(got) == list(range(64))
    for i, events in got.items():
        assert isinstance(events[0], Routing)
        assert isinstance(events[-1], Usage)
        assert text(events) == f"prompt {i}"
        names = [each.ref.name for each in events[0].adapters]
        assert names == (["a", "b", "c"] if i < 30 else ["d"] if i < 60 else [])


async def test_they_run_at_the_same_time_and_are_told_as_they_come(world: World) -> None:
    world.executor.gates["step"] = asyncio.Event()
    async with aclosing(world.client.generate_batch([f"a b{i}" for i in range(8)])) as events:
        first = {index async for index, event in _until(events, 16)}
        assert first == set(range(8)), "each has begun before any has ended"
        assert world.executor.num_running == 8


async def _until(events: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(events)


async def test_each_fails_alone_with_the_error_that_it_has_alone(world: World) -> None:
    bad = [
        Request(""),
        Request("x", adapters=["none"]),
        Request("x", adapters=["a", "../x"]),
        Request("x", token_ids=[1]),
        Request("y" * 101),
    ]
    got = await answers(world, ["good one", *bad, "good two"])
    assert (text(got[0]), text(got[6])) == ("good one", "good two")
    for i, request in enumerate(bad, start=1):
        with pytest.raises(RamoleError) as alone:
            await world.client.complete(request.prompt, token_ids=request.token_ids, adapters=request.adapters)
        [error] = got[i]
        for part in ("message", "field", "remedy", "retry_after_s"):
            assert getattr(error, part) == getattr(alone.value, part)
        assert type(error) is type(alone.value)


async def test_one_that_fails_half_way_ends_alone(world: World) -> None:
    world.executor.failures["step"] = [Corrupt("a broken answer")]
    got = await answers(world, ["one two", "three four"])
    ends = [events[-1] for _, events in sorted(got.items())]
    assert sorted(type(end).__name__ for end in ends) == ["Corrupt", "Usage"]
    assert next(end for end in ends if isinstance(end, Corrupt)).message == "a broken answer"


async def test_what_may_be_repeated_says_when(world: World) -> None:
    world.retrieval.failures["Search"] = [Unavailable("down", retry_after_s=2.5)] * 2
    got = await answers(world, ["one"])
    assert isinstance(got[0][0], Unavailable)
    assert got[0][0].retry_after_s == 2.5


@pytest.mark.parametrize("count", [0, 65])
async def test_a_batch_has_1_to_64_requests(world: World, count: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        await answers(world, ["x"] * count)
    assert caught.value.field == "requests"
    assert caught.value.remedy
    assert "Execute" not in world.log


async def test_a_client_that_leaves_ends_all(world: World) -> None:
    world.executor.gates["step"] = asyncio.Event()
    async with aclosing(world.client.generate_batch(["one two"] * 5)) as events:
        async for _ in _until(events, 10):
            continue
        assert world.executor.num_running == 5
    async with asyncio.timeout(10):
        while world.executor.num_running:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


async def test_each_request_counts_for_the_tenants_limits() -> None:
    world = World()
    limited = world.settings.gateway.model_copy(update={"limits": TenantLimitSettings(requests_in_flight=3)})
    world.settings = world.settings.model_copy(update={"gateway": limited})
    world.give("a")
    await world.start_neighbours()
    await world.start_gateway()
    try:
        world.executor.gates["step"] = asyncio.Event()
        asked = asyncio.create_task(answers(world, ["one two"] * 5))
        while world.executor.num_running < 3:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
        world.executor.gates.pop("step").set()
        ends = [events[-1] for events in (await asked).values()]
        assert sum(isinstance(end, LimitExceeded) and bool(end.retry_after_s) for end in ends) == 2
        assert sum(isinstance(end, Usage) for end in ends) == 3
    finally:
        await world.stop()
