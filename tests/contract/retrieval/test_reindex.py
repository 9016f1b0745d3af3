"""The index rebuilt while the gateway serves, on every engine: no request fails, none mixes encoders, none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from ramole.client import RamoleClient, ReindexProgress
from ramole.core.errors import WrongState
from ramole.v1.retrieval_pb2 import Generation, ListGenerationsRequest, ListRowsRequest, RemoveRequest
from support.index_world import LiveWorld


@pytest.fixture
async def world(uri: str) -> AsyncIterator[LiveWorld]:
    made = LiveWorld(uri, num=24)
    await made.start_neighbours()
    await made.start_gateway()
    yield made
    await made.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"x")
    return made


async def generations(world: LiveWorld) -> list[Generation]:
    return list((await world.peers().retrieval.stub.ListGenerations(ListGenerationsRequest())).generations)


async def check_that_only_the_new_one_is_left(world: LiveWorld, before: list[Generation]) -> None:
    assert [each.encoder_id for each in before] == ["old"]
    assert [each.encoder_id for each in await generations(world)] == ["new"]
    for old in before:
        with pytest.raises(WrongState, match="no generation"):
            await anext(world.peers().retrieval.stub.ListRows(ListRowsRequest(generation=old.number)))


async def test_a_new_encoder_takes_over_under_load(world: LiveWorld, folder: Path) -> None:
    before = await generations(world)
    world.embedding.loaded = ["new", "old"]
    over = asyncio.Event()
    answers = {"searches": 0, "uploads": 0, "removals": 0}

    async def search(start: int) -> None:
        i = start
        while not over.is_set():
            i = (i + 5) % 20  # the others may be removed meanwhile
            assert await world.find(i) == f"n{i}"
            answers["searches"] += 1

    async def upload() -> None:
        for i in range(24, 40):
            if over.is_set():
                break
            await world.client.upload(folder, [f"sample n{i}"], adapter=f"n{i}")
            assert await world.find(i) == f"n{i}"
            answers["uploads"] += 1

    async def remove() -> None:
        for i in range(20, 24):
            await world.client.delete(f"n{i}")
            assert await world.find(i) != f"n{i}"
            answers["removals"] += 1

    async def rebuild() -> ReindexProgress:
        try:
            return await world.reindex()
        finally:
            over.set()

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        rebuilt = group.create_task(rebuild())
        for start in range(3):
            group.create_task(search(start))
        group.create_task(upload())
        group.create_task(remove())
    assert rebuilt.result().encoder_id == "new"
    assert answers["removals"] == 4
    assert answers["uploads"] > 0
    assert answers["searches"] > 20
    world.embedding.loaded = ["new"]  # the old one is no longer needed
    for i in (*range(20), *range(24, 24 + answers["uploads"])):
        assert await world.find(i) == f"n{i}"
    await check_that_only_the_new_one_is_left(world, before)
    rows = [row async for row in world.peers().retrieval.stub.ListRows(ListRowsRequest())]
    assert {row.adapter.name for row in rows} == {record.adapter.name for record in world.adapters.live()}


async def test_two_gateways_that_rebuild_at_once_help_each_other(world: LiveWorld) -> None:
    other = await world.add_gateway()
    before = await generations(world)
    world.embedding.loaded = ["new", "old"]
    over = asyncio.Event()
    searches = 0

    async def search(client: RamoleClient) -> None:
        nonlocal searches
        i = 0
        while not over.is_set():
            assert await world.find(i, client) == f"n{i}"
            i = (i + 1) % 24
            searches += 1

    async def rebuild() -> list[ReindexProgress]:
        try:
            return await asyncio.gather(world.reindex(), world.reindex(other))
        finally:
            over.set()

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        rebuilt = group.create_task(rebuild())
        for client in (world.client, other):
            group.create_task(search(client))
    assert [done.encoder_id for done in rebuilt.result()] == ["new", "new"]
    assert searches > 4
    world.embedding.loaded = ["new"]
    for i in range(24):
        assert await world.find(i) == f"n{i}"
    await check_that_only_the_new_one_is_left(world, before)


async def test_without_the_encoder_of_the_index_nothing_is_retrieved_until_it_is_rebuilt(world: LiveWorld) -> None:
    world.embedding.loaded = ["new"]
    for _ in range(2):
        with pytest.raises(WrongState, match="reindex"):
            await world.find(3)
    assert (await world.client.complete("go", adapters=["n3"])).text == "go"
    done = await world.reindex()
    assert (done.encoder_id, done.done, done.total) == ("new", 24, 24)
    assert await world.find(3) == "n3"


async def test_a_rebuild_that_was_broken_off_goes_on_later(world: LiveWorld, folder: Path) -> None:
    world.embedding.loaded = ["new", "old"]
    gate = world.embedding.gates["Embed"] = asyncio.Event()
    world.embedding.entered.clear()
    running = asyncio.create_task(world.reindex())
    await world.embedding.until("Embed")
    with pytest.raises(WrongState, match="already"):
        await world.reindex()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    gate.set()
    del world.embedding.gates["Embed"]
    # The generation that was begun still gets every upload, and nothing else has changed.
    await world.client.upload(folder, ["sample n30"], adapter="n30")
    assert [await world.find(i) for i in (3, 30)] == ["n3", "n30"]
    before = world.embedding.num_texts["new"]
    done = await asyncio.wait_for(world.reindex(), 60)
    assert done.total == 25
    assert world.embedding.num_texts["new"] - before == 24
    world.embedding.loaded = ["new"]
    assert [await world.find(i) for i in (3, 30)] == ["n3", "n30"]


async def test_the_same_encoder_again_heals_what_was_lost(world: LiveWorld) -> None:
    index = world.peers().retrieval.stub
    lost = [row.adapter async for row in index.ListRows(ListRowsRequest()) if row.adapter.name == "n5"]
    await index.Remove(RemoveRequest(adapters=lost))
    assert await world.find(5) != "n5"
    async with aclosing(world.client.reindex()) as steps:
        assert [step.total async for step in steps][-1] == 24
    assert await world.find(5) == "n5"
