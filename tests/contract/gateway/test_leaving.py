"""Whoever leaves, in whatever way, is out of the batch within one step of the engine, under load, and leaves nothing.

Counted in steps of the engine, never in seconds.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ramole.core.sampling import Sampling
from ramole.lora.weights import AdapterWeights
from ramole.v1 import gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.engine_door import EngineDoor, counted_workers
from support.front_door import Wire, post

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = 16
LONG = 3900
"""Tokens of an answer that does not end during the test."""

DEADLINE_S = 2.0
STAYING = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineDoor]:
    folder = tmp_path_factory.mktemp("door")
    door = EngineDoor(folder, num_slots=5, max_rows=ROWS, token_budget=64, max_len=4096, max_waiting=64)
    door.open_both(deadline_s=300.0)
    with pytest.MonkeyPatch.context() as patch:
        counted_workers(patch)
        try:
            await door.start("a", "b", "c", "cold")
            yield door
        finally:
            await door.stop()


Leave = Callable[[], Awaitable[Any]]
Way = Callable[[EngineDoor, str], Awaitable[Leave]]
"""Asks with an adapter, and gives what ends it."""


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "n0", "max_tokens": LONG, "temperature": 0, "stream": True} | more


def generating(model: str) -> gateway_pb2.GenerateRequest:
    return gateway_pb2.GenerateRequest(prompt="n0", adapters=[{"adapter": model}], sampling={"max_tokens": LONG})


async def asked(door: EngineDoor, sent: dict[str, Any], *, path: str = "/v1/completions", receives: int = 0) -> Wire:
    wire = await Wire.to(door.http_port, receives=receives)
    wire.send(post(path, sent))
    return wire


async def closes(door: EngineDoor, model: str) -> Leave:
    return (await asked(door, body(model))).close


async def resets(door: EngineDoor, model: str) -> Leave:
    wire = await asked(door, body(model))
    return lambda: _reset(wire)


async def _reset(wire: Wire) -> None:
    sock = wire.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


async def half_closes(door: EngineDoor, model: str) -> Leave:
    wire = await asked(door, body(model))

    async def leave() -> None:
        wire.writer.write_eof()
        await wire.rest()  # it goes on reading, and is let go

    return leave


async def never_read(door: EngineDoor, model: str) -> Leave:
    wire = await asked(door, body(model), receives=2**12)
    return lambda: _reset(wire)


async def waits_for_the_whole(door: EngineDoor, model: str) -> Leave:
    return (await asked(door, body(model, stream=False))).close


async def chats(door: EngineDoor, model: str) -> Leave:
    """Several at once."""
    return (await asked(door, body(model, prompt=["n0", "n1"], stream=False))).close


async def is_late_over_http(door: EngineDoor, model: str) -> Leave:
    wire = await Wire.to(door.http_port)
    wire.send(post("/v1/completions", body(model), x_request_timeout=str(DEADLINE_S), connection="close"))
    return wire.rest


async def cancels(door: EngineDoor, model: str) -> Leave:
    channel = grpc.aio.insecure_channel(door.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = GatewayStub(channel).Generate(generating(model))

    async def leave() -> None:
        call.cancel()
        await channel.close()

    return leave


async def cancels_unread(door: EngineDoor, model: str) -> Leave:
    channel = grpc.aio.insecure_channel(door.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = GatewayStub(channel).Complete(gateway_pb2.CompleteRequest(request=generating(model)))

    async def leave() -> None:
        await channel.close()
        assert call.done()

    return leave


async def cancels_a_batch(door: EngineDoor, model: str) -> Leave:
    channel = grpc.aio.insecure_channel(door.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = GatewayStub(channel).GenerateBatch(gateway_pb2.GenerateBatchRequest(requests=[generating(model)] * 2))

    async def leave() -> None:
        call.cancel()
        await channel.close()

    return leave


async def is_late_over_grpc(door: EngineDoor, model: str) -> Leave:
    channel = grpc.aio.insecure_channel(door.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = GatewayStub(channel).Generate(generating(model), timeout=DEADLINE_S)

    async def leave() -> None:
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await channel.close()

    return leave


WAYS: dict[Way, int] = {
    closes: 1,
    resets: 1,
    half_closes: 1,
    never_read: 1,
    waits_for_the_whole: 1,
    chats: 2,
    is_late_over_http: 1,
    cancels: 1,
    cancels_unread: 1,
    cancels_a_batch: 2,
    is_late_over_grpc: 1,
}
"""And how many sequences each is."""
LATE = [is_late_over_http, is_late_over_grpc]


async def until(condition: Callable[[dict[str, int]], bool], door: EngineDoor) -> dict[str, int]:
    async with asyncio.timeout(60):
        while not condition(held := await door.held()):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.02)
    return held


async def test_whoever_leaves_is_out_within_a_step(door: EngineDoor) -> None:
    alone = await door.client.complete("n3", adapters=["a"], sampling=Sampling(max_tokens=STAYING))
    door.worker.held_at = ROWS
    staying = [
        asyncio.create_task(door.client.complete("n3", adapters=["a"], sampling=Sampling(max_tokens=STAYING)))
        for _ in range(2)
    ]
    num, num_late = 2 * sum(WAYS.values()), 2 * sum(WAYS[way] for way in LATE)
    leaves: list[Leave] = []
    for number, way in enumerate(2 * [way for way in WAYS if way not in LATE]):
        leaves.append(await way(door, "abc"[number % 3]))
    held = await until(lambda held: held["running"] + held["waiting"] == num + 2 - num_late, door)
    for way in 2 * LATE:  # last, for their time runs
        leaves.append(await way(door, "a"))
    held = await until(lambda held: held["running"] == ROWS and held["waiting"] == num + 2 - ROWS, door)
    assert held["blocks"] >= ROWS
    assert held["waiting"] > 5
    assert held["slots"] > 0
    door.worker.held_at = None
    await asyncio.gather(*(leave() for leave in leaves))
    told = await asyncio.gather(*staying)
    assert [answer.text for answer in told] == [alone.text] * 2, "whoever stays notices nothing"
    held = await until(lambda held: not any(held.values()), door)
    worker = door.worker
    assert len(worker.heard) == num, "each of them was heard of"
    late = {id_: worker.last.get(id_, 0) - heard for id_, heard in worker.heard.items()}
    assert max(late.values()) <= 1, late
    assert sum(id_ in worker.last for id_ in worker.heard) >= ROWS - 2, "most of them ran"
    assert sum(id_ not in worker.last for id_ in worker.heard) > 0, "and some had not begun"


@pytest.mark.parametrize("way", [resets, cancels, is_late_over_http, cancels_a_batch], ids=lambda way: way.__name__)
async def test_who_leaves_while_an_adapter_loads_holds_nothing(
    door: EngineDoor, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load itself goes on: another may want it. When it is done nobody holds it."""
    worker, source, go_on = door.worker, door.tiny._source, asyncio.Event()
    load = source.load

    async def held_up(digest: str) -> AdapterWeights:
        await go_on.wait()
        return await load(digest)

    monkeypatch.setattr(source, "load", held_up)
    num_heard = len(worker.heard)
    digest = (await door.client.get("cold")).ref.digest
    await worker.evict([digest], abort=False)
    door.tiny._host.drop(digest)
    leave = await way(door, "cold")
    held = await until(lambda held: held["waiting"] == WAYS[way], door)
    assert (held["running"], held["loads"], held["pins"]) == (0, 1, 1)
    await leave()
    held = await until(lambda held: not held["waiting"], door)
    assert (held["running"], held["blocks"], held["slots"], held["sequences"]) == (0, 0, 0, 0)
    go_on.set()
    await until(lambda held: not any(held.values()), door)
    assert len(worker.heard) == num_heard + WAYS[way]
    assert not worker.last.keys() & set(list(worker.heard)[num_heard:]), "none of them was in any step"
