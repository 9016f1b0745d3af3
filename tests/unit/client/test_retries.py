"""What both clients repeat: what changes nothing, when the error allows it, before an answer has begun, in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.client import Chunk, RamoleClient
from ramole.client.retries import repeated
from ramole.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, NotFound, RamoleError, Unavailable
from ramole.core.settings import PublicServerSettings
from support.gateway_world import World


def busy(retry_after_s: float | None = 0.01) -> RamoleError:
    error = LimitExceeded("too much for now", retry_after_s=retry_after_s)
    error.is_final = True
    return error


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.give("a", "b")
    await world.start_neighbours()
    await world.start_gateway()
    yield world
    await world.stop()


@pytest.fixture
async def client(world: World) -> AsyncIterator[RamoleClient]:
    async with RamoleClient(world.servers["gateway"].address, timeout_s=20) as client:
        yield client


def folder(path: Path) -> Path:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (path / name).write_bytes(b"{}")
    return path


async def events(client: RamoleClient) -> list[Any]:
    return [event async for event in client.generate("two words", adapters=["a"])]


Call = Callable[[RamoleClient, Path], Awaitable[Any]]
REPEATED: dict[str, tuple[str, str, Call]] = {
    "generate": ("executor", "Execute", lambda c, _: c.complete("x", adapters=["a"])),
    "route": ("embedding", "Embed", lambda c, _: c.route("x")),
    "get": ("adapters", "GetStored", lambda c, _: c.get("a")),
    "list": ("adapters", "ListStored", lambda c, _: anext(c.adapters())),
    "history": ("adapters", "GetStoredHistory", lambda c, _: c.history("a")),
    "describe": ("executor", "GetStatus", lambda c, _: c.describe()),
    "upload with a key": ("adapters", "Put", lambda c, path: c.upload(folder(path), ["x"], idempotency_key="k")),
}
NOT_REPEATED: dict[str, tuple[str, str, Call]] = {
    "upload": ("adapters", "Put", lambda c, path: c.upload(folder(path), ["x"])),
    "rollback": ("adapters", "Restage", lambda c, _: c.rollback("a@1")),
    "delete": ("adapters", "ListStored", lambda c, _: c.delete("a")),
}


@pytest.mark.parametrize("case", REPEATED)
async def test_what_changes_nothing_is_repeated(case: str, world: World, client: RamoleClient, tmp_path: Path) -> None:
    neighbour, method, call = REPEATED[case]
    failures = getattr(world, neighbour).failures
    failures[method] = [busy(), busy()]
    await call(client, tmp_path)
    assert not failures[method]
    failures[method] = [busy(), busy(), busy(), busy()]
    with pytest.raises(LimitExceeded):
        await call(client, tmp_path)
    assert len(failures[method]) == 1, "three tries in all"
    with pytest.raises(LimitExceeded):
        await call(client.with_options(retries=0), tmp_path)
    assert not failures[method]


@pytest.mark.parametrize("case", NOT_REPEATED)
async def test_what_changes_something_is_not(case: str, world: World, client: RamoleClient, tmp_path: Path) -> None:
    neighbour, method, call = NOT_REPEATED[case]
    failures = getattr(world, neighbour).failures
    failures[method] = [busy()] * 3
    with pytest.raises(RamoleError):
        await call(client, tmp_path)
    assert len(failures[method]) == 2


async def test_an_error_without_a_time_is_not_repeated(world: World, client: RamoleClient) -> None:
    world.log.clear()
    with pytest.raises(NotFound):
        await client.get("nobody")
    assert world.log.count("GetStored") == 1
    world.executor.failures["GetStatus"] = [busy(None)] * 2
    with pytest.raises(LimitExceeded):
        await client.describe()
    assert len(world.executor.failures["GetStatus"]) == 1


async def test_an_answer_that_has_begun_is_not_repeated(world: World, client: RamoleClient) -> None:
    world.executor.failures["step"] = [busy()]
    answer = client.generate("two words", adapters=["a"])
    seen = [await anext(answer), await anext(answer)]
    with pytest.raises(LimitExceeded):
        await anext(answer)
    assert [event.text for event in seen if isinstance(event, Chunk)] == ["two"]
    assert world.log.count("Execute") == 1
    assert await events(client)


async def test_the_time_limit_is_that_of_all_tries(world: World, client: RamoleClient) -> None:
    world.executor.failures["GetStatus"] = [busy(30.0)]
    began_s = time.monotonic()
    with pytest.raises(LimitExceeded) as refused:
        await client.describe()
    assert time.monotonic() - began_s < 15, "waited for a try that there is no time for"
    assert refused.value.retry_after_s == 30.0
    world.executor.delays_s["GetStatus"] = 5.0
    with pytest.raises(DeadlineExceeded):
        await client.with_options(timeout_s=0.05).describe()
    assert client.with_options()._timeout_s == 20


async def test_a_server_that_comes_later_is_waited_for(world: World, client: RamoleClient) -> None:
    old = world.servers["gateway"]
    await old.stop()
    with pytest.raises(Unavailable):
        await client.with_options(retries=0).describe()
    waiting = asyncio.create_task(client.describe())
    port = PublicServerSettings(port=int(old.address.rpartition(":")[2]))
    gateway = world.settings.gateway.model_copy(update={"server": port})
    world.settings = world.settings.model_copy(update={"gateway": gateway})
    new = world.serve(world.peers())
    await new.start()
    assert (await waiting).base_model == world.settings.base_id
    await new.stop()


def test_less_than_no_retries_are_refused() -> None:
    with pytest.raises(InvalidInput, match="retries"):
        RamoleClient("127.0.0.1:1", retries=-1)


@given(retries=st.integers(0, 5), num_failures=st.integers(0, 8))
async def test_so_many_tries_as_were_asked_for(retries: int, num_failures: int) -> None:
    left = [busy(0.0)] * num_failures
    tries = 0

    async def call(_: float | None) -> str:
        nonlocal tries
        tries += 1
        if left:
            raise left.pop()
        return "done"

    if num_failures > retries:
        with pytest.raises(LimitExceeded):
            await repeated(call, retries, None)
    else:
        assert await repeated(call, retries, None) == "done"
    assert tries == min(num_failures, retries) + 1
