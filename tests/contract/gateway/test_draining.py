"""A gateway that stops: who runs ends whole on both ports, who comes hears it, and after the grace all get a status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.core.errors import Unavailable
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import ACCEPTING
from ramole.v1 import gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.front_door import FrontDoor, Wire, front_door, post
from support.gateway_world import BASE

PATH = "/v1/completions"
BODY = {"model": BASE, "prompt": "a b c"}
LONG_S = 120.0


class Running:
    """Calls on both ports that have begun and wait for `go_on`."""

    def __init__(self, door: FrontDoor) -> None:
        self.door = door
        self.go_on = asyncio.Event()
        self.channel = grpc.aio.insecure_channel(door.grpc_address)
        self.stub: Any = GatewayStub(self.channel)

    async def begin(self) -> None:
        """A stream on each port, a whole answer over HTTP, and a batch."""
        door = self.door
        door.executor.gates["step"] = self.go_on
        self.stream = await Wire.to(door.http_port)
        self.stream.send(post(PATH, BODY | {"stream": True}))
        self.whole = await Wire.to(door.http_port)
        self.whole.send(post(PATH, BODY))
        self.call = self.stub.Generate(gateway_pb2.GenerateRequest(prompt="a b c"))
        self.events = aiter(self.call)
        self.unary = self.stub.Complete(gateway_pb2.CompleteRequest(request={"prompt": "a b c"}))
        async with asyncio.timeout(30):
            assert (await self.stream.reader.readuntil(b'"text":"a"')).startswith(b"HTTP/1.1 200")
            assert (await anext(self.events)).HasField("routing")
            while door.executor.num_running < 4:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(grace_s: float) -> AsyncIterator[tuple[FrontDoor, Running]]:
    async with front_door(server={"grace_s": grace_s}) as door:
        calls = Running(door)
        await calls.begin()
        try:
            yield door, calls
        finally:
            calls.go_on.set()
            await calls.channel.close()


async def until_closed(door: FrontDoor) -> None:
    async with asyncio.timeout(30):
        while door.servers["gateway"].is_serving:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)


async def test_who_runs_ends_whole_and_who_comes_is_refused() -> None:
    async with running(LONG_S) as (door, calls):
        idle = await Wire.to(door.http_port)
        idle.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await idle.answer())[0] == 200
        health = health_pb2_grpc.HealthStub(calls.channel)
        watches = [aiter(health.Watch(health_pb2.HealthCheckRequest(service=name))) for name in ("", ACCEPTING)]
        for watch in watches:
            assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING

        stopping = asyncio.create_task(door.servers["gateway"].stop())
        await until_closed(door)
        async with asyncio.timeout(30):
            for watch in watches:
                assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await idle.rest() == b"", "a connection that nobody uses is closed"
        for asked, status in (
            (post(PATH, BODY), 503),
            (post(PATH, BODY | {"stream": True}), 503),
            (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 503),
            (b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n", 503),
            (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        ):
            wire = await Wire.to(door.http_port)
            wire.send(asked)
            got, headers, body = await wire.answer()
            assert (got, headers.get("connection")) == (status, "close"), asked
            if status == 503:
                assert headers["retry-after"] == "1"
                assert "starting or stopping" in json.loads(body)["error"]["message"]
            assert await wire.rest() == b""
        async with grpc.aio.insecure_channel(
            door.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as fresh:
            for stub in (calls.stub, GatewayStub(fresh)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Describe(gateway_pb2.DescribeRequest(), timeout=30)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done(), "it waits for those that run"

        calls.go_on.set()
        rest = (await calls.stream.rest()).decode()
        assert '"text":"b"' in rest
        assert '"text":"c"' in rest
        assert rest.rstrip("\r\n0").endswith("data: [DONE]"), "and then the connection is closed"
        status, headers, body = await calls.whole.answer()
        assert (status, json.loads(body)["choices"][0]["text"]) == (200, "abc")
        assert await calls.whole.rest() == b""
        events = [event async for event in calls.events]
        assert "".join(event.chunk.text for event in events) == "abc"
        assert events[-1].HasField("usage")
        assert (await calls.unary).answer.text == "abc"
        async with asyncio.timeout(30):
            await stopping  # although somebody still watches its health
        with pytest.raises(ConnectionRefusedError):
            await Wire.to(door.http_port)


async def test_after_the_grace_the_rest_is_broken_off_with_a_status() -> None:
    async with running(0.3) as (door, calls):
        async with asyncio.timeout(30):
            await door.servers["gateway"].stop()
        rest = (await calls.stream.rest()).decode()
        last = json.loads(rest.rpartition("data: ")[2].rstrip("\r\n0"))
        assert last["error"]["type"] == "server_error"
        assert "the server stops" in last["error"]["message"]
        assert "[DONE]" not in rest
        status, headers, body = await calls.whole.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert "the server stops" in json.loads(body)["error"]["message"]
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            [event async for event in calls.events]
        with pytest.raises(grpc.aio.AioRpcError) as cut_whole:
            await calls.unary
        for each in (cut, cut_whole):
            error = from_rpc_error(each.value)
            assert isinstance(error, Unavailable)
            assert "the server stops" in error.message
            assert error.retry_after_s == 1.0
        async with asyncio.timeout(30):
            while door.executor.num_running:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
        assert door.servers["gateway"].inflight == 0


async def test_who_does_not_read_its_end_holds_nobody_up() -> None:
    """A client that reads nothing gets no status either; the stop does not wait for it."""
    async with front_door(server={"grace_s": 0.2}) as door:
        door.executor.endless = "y" * 16_000
        wire = await Wire.to(door.http_port, receives=2**12)
        wire.send(post(PATH, BODY | {"stream": True}))
        async with grpc.aio.insecure_channel(door.grpc_address) as channel:
            call = GatewayStub(channel).Generate(gateway_pb2.GenerateRequest(prompt="a b c"))
            await call.read()
            async with asyncio.timeout(30):
                await door.servers["gateway"].stop()
            assert door.servers["gateway"].inflight == 0
            call.cancel()
        await wire.close()
