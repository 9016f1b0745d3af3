"""Clients that fall silent, read nothing or open too much: nobody holds a place for ever, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.core.errors import AdapterRefused
from ramole.core.settings import ServerSettings
from ramole.transport.call_limit import Kind
from ramole.v1 import adapters_pb2
from ramole.v1.adapters_pb2_grpc import AdaptersStub
from ramole.v1.records_pb2 import FileChunk
from support.probe_service import CALLS, ProbeService, RelayService, call_unary, chunks
from support.uploads import put_request

CHUNK = put_request(chunk=FileChunk(data=b"x"))
PATIENT = ServerSettings(idle_s=60.0)
EXHAUSTED, DEADLINE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


@pytest.fixture
async def channel_to(net: Any) -> AsyncIterator[Callable[[str], grpc.aio.Channel]]:
    async with AsyncExitStack() as stack:

        def connect(address: str) -> grpc.aio.Channel:
            # A pool of its own: channels to one address would share their connection.
            channel = grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
            stack.push_async_callback(channel.close)
            return channel

        yield connect


async def code_of(call: Any) -> grpc.StatusCode:
    """A stream tells its status behind its last message only."""
    if isinstance(call, grpc.aio.UnaryStreamCall):
        with suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
    return await call.code()


async def half_open(channel: grpc.aio.Channel) -> grpc.aio.StreamUnaryCall[Any, Any]:
    """An upload that sends one message and then nothing, without a deadline."""
    call = AdaptersStub(channel).Put()
    with suppress(grpc.aio.AioRpcError):  # refused already
        await call.write(CHUNK)
    return call


async def test_an_upload_that_falls_silent_is_ended(net: Any, channel_to: Any) -> None:
    probe = ProbeService()
    far = await net.serve(probe, PATIENT)
    near = await net.serve(RelayService(net.peers(far.address)), ServerSettings(idle_s=0.3))
    call = await half_open(channel_to(near.address))
    with pytest.raises(grpc.aio.AioRpcError, match="no message of the client for") as caught:
        await call
    assert caught.value.code() is DEADLINE
    await until(lambda: near.inflight == far.inflight == 0)
    assert not probe.has_seen_end_of_upload


@pytest.mark.parametrize("cardinality", CALLS)
async def test_the_default_deadline_ends_whatever_the_handler_does(net: Any, channel_to: Any, cardinality: str) -> None:
    probe = ProbeService()
    probe.gate.clear()
    server = await net.serve(probe, PATIENT, default_timeout_s=0.2)
    stub = AdaptersStub(channel_to(server.address))
    if cardinality == "unary":
        call = stub.GetStored(adapters_pb2.GetStoredRequest(adapter="x"))
    elif cardinality == "stream":
        call = stub.Fetch(adapters_pb2.FetchRequest(digest="x"))
        await call.read()
        await call.read()
    else:
        call = await half_open(channel_to(server.address))
    assert await code_of(call) is DEADLINE
    await until(lambda: server.inflight == 0)
    assert probe.closed.is_set()


async def test_the_default_deadline_ends_the_outer_call_that_waits_for_its_client(net: Any, channel_to: Any) -> None:
    far = await net.serve(ProbeService(), PATIENT)
    near = await net.serve(RelayService(net.peers(far.address)), PATIENT, default_timeout_s=0.2)
    call = await half_open(channel_to(near.address))
    assert await call.code() is DEADLINE
    await until(lambda: near.inflight == far.inflight == 0)


async def test_a_silent_client_hears_of_a_refusal_behind_the_relay_at_once(net: Any, channel_to: Any) -> None:
    far = await net.serve(ProbeService(AdapterRefused("no")), PATIENT)
    near = await net.serve(RelayService(net.peers(far.address)), PATIENT)
    call = await half_open(channel_to(near.address))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    await until(lambda: near.inflight == far.inflight == 0)


class Endless(ProbeService):
    """Sends without an end."""

    async def Fetch(
        self, request: adapters_pb2.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        try:
            while True:
                yield adapters_pb2.FetchResponse(data=bytes(2**20))
        finally:
            self.closed.set()


async def test_a_client_that_reads_nothing_is_cut_off(net: Any, channel_to: Any) -> None:
    probe = Endless()
    server = await net.serve(probe, ServerSettings(idle_s=0.3))
    channel = channel_to(server.address)
    call = AdaptersStub(channel).Fetch(adapters_pb2.FetchRequest(digest="x"))
    await call.wait_for_connection()
    async with asyncio.timeout(20):
        await probe.closed.wait()
    await until(lambda: server.inflight == 0)
    assert await CALLS["unary"][0](net.peers(server.address)) == "x"
    assert not call.done(), "the client has been silent all the time"


async def test_half_open_uploads_take_no_place_of_other_calls(net: Any, channel_to: Any) -> None:
    probe = ProbeService()
    server = await net.serve(probe, ServerSettings(max_inflight=4, max_transfers=8, peer_share=0.5, idle_s=60.0))
    hostile = channel_to(server.address)
    calls = [await half_open(hostile) for _ in range(300)]
    await until(lambda: sum(call.done() for call in calls) == 296)
    refused = [call for call in calls if call.done()]
    assert {await call.code() for call in refused} == {EXHAUSTED}
    assert "server.peer_share" in await refused[0].details()
    assert server.inflight == 4
    # Not even those of other clients' uploads, of which there are few.
    others = net.peers(server.address)
    assert await asyncio.gather(*(call_unary(others) for _ in range(4))) == ["x"] * 4
    assert await CALLS["upload"][0](others) == "ab"
    await hostile.close()
    await until(lambda: server.inflight == 0)


async def test_the_places_of_a_class_have_an_end_for_all_clients_together(net: Any, channel_to: Any) -> None:
    server = await net.serve(ProbeService(), ServerSettings(max_transfers=2, idle_s=60.0))
    held = [await half_open(channel_to(server.address)) for _ in range(2)]
    await until(lambda: server.inflight == 2)
    late = await half_open(channel_to(server.address))
    assert await late.code() is EXHAUSTED
    assert "server.max_transfers" in await late.details()
    held[0].cancel()
    await until(lambda: server.inflight == 1)
    assert await CALLS["upload"][0](net.peers(server.address)) == "ab"


@pytest.mark.parametrize(("peers_are", "code"), [("connections", grpc.StatusCode.OK), ("hosts", EXHAUSTED)])
async def test_a_peer_is_a_connection_or_a_host(net: Any, channel_to: Any, peers_are: Any, code: Any) -> None:
    settings = ServerSettings(max_transfers=2, peer_share=0.5, peers_are=peers_are, idle_s=60.0)
    server = await net.serve(ProbeService(), settings)
    await half_open(channel_to(server.address))
    await until(lambda: server.inflight == 1)
    second = AdaptersStub(channel_to(server.address)).Put(chunks(b"a"))
    assert await second.code() is code


class Watched(ProbeService):
    kinds: ClassVar = {"Fetch": Kind.WATCH}


async def test_a_method_that_a_service_calls_a_watch_takes_a_place_of_watches(net: Any, channel_to: Any) -> None:
    probe = Watched()
    probe.gate.clear()
    server = await net.serve(probe, ServerSettings(max_inflight=1, max_watches=1))
    stub = AdaptersStub(channel_to(server.address))
    watch = stub.Fetch(adapters_pb2.FetchRequest(digest="x"))
    await watch.read()
    call = stub.GetStored(adapters_pb2.GetStoredRequest(adapter="x"))
    await until(lambda: server.inflight == 2)
    assert await stub.Fetch(adapters_pb2.FetchRequest(digest="x")).code() is EXHAUSTED
    probe.gate.set()
    assert await call.code() is await code_of(watch) is grpc.StatusCode.OK


async def test_health_watches_are_counted_and_bounded(net: Any, channel_to: Any) -> None:
    server = await net.serve(ProbeService(), ServerSettings(max_inflight=1, max_watches=4, grace_s=0.1))
    health = health_pb2_grpc.HealthStub(channel_to(server.address))
    watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(4)]
    for watch in watches:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert server.inflight == 4
    late = health.Watch(health_pb2.HealthCheckRequest())
    assert await late.code() is EXHAUSTED
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    assert await CALLS["unary"][0](net.peers(server.address)) == "x"
    watches[0].cancel()
    await until(lambda: server.inflight == 3)
    again = health.Watch(health_pb2.HealthCheckRequest())
    assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_health_watch_outlives_the_default_deadline_and_tells_of_the_stop(net: Any, channel_to: Any) -> None:
    server = await net.serve(ProbeService(), ServerSettings(grace_s=0.1), default_timeout_s=0.001)
    watch = health_pb2_grpc.HealthStub(channel_to(server.address)).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    call = await half_open(channel_to(server.address))  # its end shows that the deadline has passed
    assert await call.code() is DEADLINE
    stopping = asyncio.create_task(server.stop())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await stopping
