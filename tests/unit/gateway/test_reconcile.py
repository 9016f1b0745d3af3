from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from ramole.core.errors import Corrupt, Unavailable, WrongState
from ramole.core.names import AdapterName
from ramole.gateway.upkeep import until_available
from ramole.v1.records_pb2 import AdapterRecord
from support.gateway_world import World


async def test_a_starting_gateway_brings_the_index_in_line_with_the_store() -> None:
    world = World()
    world.give("good")
    world.adapters.add("lost")  # live, but has no row
    world.adapters.add("staged", is_live=False)
    old = world.adapters.add("two", 1)
    world.adapters.add("two", 2)
    world.retrieval.add(old)  # the row of an older version
    orphan = world.adapters.add("orphan")
    world.adapters.records.pop(("default", "orphan", 1))
    world.retrieval.add(orphan)
    changed = world.adapters.add("changed")
    changed.digest = "0" * 64
    world.retrieval.add(changed)  # the row of other content
    await world.start_neighbours()
    await world.start_gateway()
    try:
        assert world.findable == {"good@1", "lost@1", "two@2", "changed@1"}
        stored = {key: record.adapter.digest for key, record in world.adapters.records.items()}
        assert all(row.digest == stored[key] for key, row in world.retrieval.rows.items())
    finally:
        await world.stop()


async def test_a_second_gateway_leaves_the_row_of_an_upload_under_way(world: World) -> None:
    world.retrieval.add(world.adapters.add("e", is_live=False))
    await world.add_gateway()
    assert "e@1" in world.findable


async def test_an_adapter_that_the_store_cannot_read_holds_nobody_up() -> None:
    world = World()
    world.adapters.add("lost")
    world.adapters.add("damaged")
    await world.start_neighbours()
    damaged = AdapterName("default", "damaged", 1)
    begin = world.adapters.get

    def get(name: AdapterName) -> AdapterRecord:
        if name == damaged:
            raise Corrupt("the manifest is damaged", field="adapter")
        return begin(name)

    world.adapters.get = get  # type: ignore[method-assign]
    await world.start_gateway()
    try:
        assert world.findable == {"lost@1"}
    finally:
        await world.stop()


async def test_without_an_index_a_gateway_starts_and_repairs_it_later() -> None:
    world = World()
    world.settings = world.settings.model_copy(
        update={"gateway": world.settings.gateway.model_copy(update={"index_patience_s": 0.1})}
    )
    world.adapters.add("lost")
    await world.start_neighbours()
    gate = world.retrieval.gates["ListRows"] = asyncio.Event()
    world.retrieval.failures["ListRows"] = [Unavailable("down")] * 5
    await world.start_gateway()
    try:
        named = await world.client.complete("go", adapters=["lost"])
        assert named.text == "go"
        assert world.findable == set()
        gate.set()
        async with asyncio.timeout(20):
            while not world.findable:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
    finally:
        gate.set()
        await world.stop()


async def test_a_gateway_waits_for_services_that_start_later() -> None:
    world = World()
    world.give("a")
    starting = asyncio.create_task(world.start_gateway())
    await asyncio.sleep(0)
    await world.start_neighbours()
    async with asyncio.timeout(20):
        await starting
    try:
        assert (await world.client.complete("go")).text == "go"
    finally:
        await world.stop()


async def test_waiting_ends_with_the_last_error_and_only_for_outages() -> None:
    async def down() -> None:
        raise Unavailable("still down")

    async def wrong() -> None:
        raise WrongState("another encoder")

    with pytest.raises(Unavailable, match="still down"):
        await until_available(down, limit_s=0.12)
    steps = [down, down, lambda: asyncio.sleep(0, "up")]

    def step() -> Awaitable[str | None]:  # no coroutine function, but makes coroutines
        return steps.pop(0)()

    assert await until_available(step) == "up"
    with pytest.raises(WrongState):
        await until_available(wrong)
