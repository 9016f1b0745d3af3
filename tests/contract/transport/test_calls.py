"""Cancellation, deadlines, request ids, retries and uploads over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from ramole.core.call import ANONYMOUS, CallContext, Principal, call_scope
from ramole.core.errors import AdapterRefused, DeadlineExceeded, Internal, InvalidInput, RamoleError, Unavailable
from ramole.observability.logs import JsonLines
from ramole.transport.caller import Retries
from ramole.transport.identity import seen_principal
from ramole.transport.stubs import reading
from ramole.v1 import adapters_pb2
from ramole.v1.adapters_pb2_grpc import AdaptersStub
from support.probe_service import CALLS, ProbeService, RelayService, chunks

WIRE_SLACK_S = 0.1
"""gRPC writes a timeout in a few digits, rounded up, and the two ends read different clocks."""

FETCH = adapters_pb2.FetchRequest(digest="x")


async def in_time(event: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await event.wait()


@pytest.mark.parametrize("cardinality", CALLS)
async def test_a_cancelled_client_frees_the_server_behind_the_relay(net: Any, cardinality: str) -> None:
    probe = ProbeService()
    probe.gate.clear()
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address)))
    task = asyncio.create_task(CALLS[cardinality][0](net.peers(near.address)))  # type: ignore[arg-type]
    await in_time(probe.entered)
    task.cancel()
    await in_time(probe.closed)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_closed_stream_frees_the_server_behind_the_relay(net: Any) -> None:
    probe = ProbeService()
    probe.gate.clear()
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address)))
    async with aclosing(net.peers(near.address).adapters.stub.Fetch(FETCH)) as answers:
        assert (await anext(answers)).data == b"\0"
    await in_time(probe.closed)


async def test_the_deadline_of_the_client_reaches_the_second_hop_and_ends_it(net: Any) -> None:
    probe = ProbeService()
    probe.gate.clear()
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address)))
    with call_scope(CallContext.begin("req-7", timeout_s=1.0)), pytest.raises(DeadlineExceeded):
        await CALLS["unary"][0](net.peers(near.address))
    ((request_id, remaining_s),) = probe.seen
    assert request_id == "req-7"
    assert remaining_s is not None
    assert 0 < remaining_s <= 1.0 + WIRE_SLACK_S
    await in_time(probe.closed)


async def test_every_hop_keeps_a_moment_to_say_who_was_slow(net: Any) -> None:
    probe = ProbeService()
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address)))
    with call_scope(CallContext.begin(timeout_s=10.0)):
        await CALLS["unary"][0](net.peers(near.address))
    ((_, remaining_s),) = probe.seen
    assert remaining_s is not None
    assert remaining_s <= 10.0 - 2 * 0.1 + WIRE_SLACK_S


async def test_a_call_without_deadline_gets_the_default_of_the_server_and_a_fresh_id(net: Any) -> None:
    probe = ProbeService()
    far = await net.serve(probe)
    near = await net.serve(RelayService(net.peers(far.address)), default_timeout_s=5.0)
    await CALLS["unary"][0](net.peers(near.address))
    await CALLS["unary"][0](net.peers(far.address))
    (first, limited), (second, unlimited) = probe.seen
    assert limited is not None
    assert 0 < limited <= 5.0 + WIRE_SLACK_S
    assert unlimited is None
    assert first != second


async def test_a_passed_deadline_is_not_sent_at_all(net: Any) -> None:
    probe = ProbeService()
    peers = net.peers((await net.serve(probe)).address)
    with call_scope(CallContext("x", deadline=0.0)), pytest.raises(DeadlineExceeded):
        await CALLS["unary"][0](peers)
    assert not probe.seen


@pytest.mark.parametrize("given", ["ok-1.2:3_4", "with space", "x" * 65, ""])
async def test_the_request_id_is_honoured_or_replaced_and_echoed(net: Any, given: str) -> None:
    server = await net.serve(ProbeService())
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = AdaptersStub(channel).GetStored(
            adapters_pb2.GetStoredRequest(adapter="x"), metadata=(("x-request-id", given),)
        )
        await call
        echoed = dict(await call.trailing_metadata())["x-request-id"]
    assert (echoed == given) == (given == "ok-1.2:3_4")
    assert echoed


@pytest.mark.parametrize("cardinality", CALLS)
async def test_who_asks_is_told_from_service_to_service(net: Any, cardinality: str) -> None:
    probe = ProbeService()
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address)))
    asked = Principal("acme", "Zoë", frozenset({"admin"}))
    with call_scope(CallContext.begin(principal=asked)):
        await CALLS[cardinality][0](net.peers(near.address))
    assert probe.principals == [asked]


@pytest.mark.parametrize("cardinality", CALLS)
async def test_at_the_edge_what_a_client_says_of_itself_counts_for_nothing(net: Any, cardinality: str) -> None:
    probe = ProbeService()
    relay = RelayService(net.peers((await net.serve(probe)).address))
    edge = await net.serve(relay, identify=seen_principal)
    with call_scope(CallContext.begin(principal=Principal("acme", "root", frozenset({"admin"})))):
        await CALLS[cardinality][0](net.peers(edge.address))
    (principal,) = probe.principals
    assert principal == replace(ANONYMOUS, name=principal.name)
    assert principal.name.startswith("ipv4:127.0.0.1:")


class Alternating:
    """A dead replica first, then a living one, then the dead one again, ..."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.num_picks = 0

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        self.num_picks += 1
        yield self._addresses[(self.num_picks - 1) % len(self._addresses)]

    async def everyone(self) -> Sequence[str]:
        return self._addresses


@pytest.mark.parametrize("cardinality", ["unary", "stream"])
async def test_an_unavailable_replica_is_replaced_by_a_second_pick(net: Any, cardinality: str) -> None:
    server = await net.serve(ProbeService())
    picker = Alternating("127.0.0.1:1", server.address)
    call, answer = CALLS[cardinality]
    assert await call(net.peers(picker)) == answer
    assert picker.num_picks == 2


async def test_the_second_failure_is_final_and_uploads_are_never_retried(net: Any) -> None:
    for name, num_picks in (("unary", 2), ("stream", 2), ("upload", 1)):
        picker = Alternating("127.0.0.1:1")
        with pytest.raises(Unavailable):
            await CALLS[name][0](net.peers(picker))
        assert picker.num_picks == num_picks


@pytest.mark.parametrize("cardinality", ["unary", "stream"])
async def test_no_layer_tries_again_what_another_has_tried_twice(net: Any, cardinality: str) -> None:
    probe = ProbeService(Unavailable("down"))
    probe.num_messages = 1  # a stream fails before its first message
    address = (await net.serve(probe)).address
    for _ in range(2):
        address = (await net.serve(RelayService(net.peers(address)))).address
    with pytest.raises(Unavailable, match="down") as caught:
        await CALLS[cardinality][0](net.peers(address))
    assert len(probe.seen) == 2
    assert caught.value.is_final
    assert caught.value.retry_after_s, "the dependency may be back then"


async def test_what_is_not_retried_here_is_retried_nowhere(net: Any) -> None:
    probe = ProbeService(Unavailable("down"))
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address), may_retry=False))
    with pytest.raises(Unavailable):
        await CALLS["unary"][0](net.peers(near.address))
    assert len(probe.seen) == 1


@pytest.mark.parametrize("error", [Internal("defect"), InvalidInput("bad"), DeadlineExceeded("late")])
async def test_a_requests_own_fault_is_not_tried_again(net: Any, error: RamoleError) -> None:
    probe = ProbeService(error)
    near = await net.serve(RelayService(net.peers((await net.serve(probe)).address)))
    with pytest.raises(type(error)) as caught:
        await CALLS["unary"][0](net.peers(near.address))
    assert len(probe.seen) == 1
    assert caught.value.retry_after_s is None


class Pair:
    """The first replica as long as nobody wants to avoid it."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        yield next((address for address in self._addresses if address != avoid), avoid)

    async def everyone(self) -> Sequence[str]:
        return self._addresses


@pytest.mark.parametrize("cardinality", ["unary", "stream"])
async def test_the_second_try_goes_elsewhere(net: Any, cardinality: str) -> None:
    dead, alive = ProbeService(Unavailable("going")), ProbeService()
    dead.num_messages = 1
    picker = Pair((await net.serve(dead)).address, (await net.serve(alive)).address)
    call, answer = CALLS[cardinality]
    assert await call(net.peers(picker)) == answer
    assert (len(dead.seen), len(alive.seen)) == (1, 1)


async def fetch(peers: Any, retries: Retries) -> None:
    async with reading(peers.adapters.stub_for(retries=retries).Fetch(FETCH)) as answers:
        async for _ in answers:
            pass


async def test_work_that_may_bring_a_replica_down_meets_two_of_them_at_most(net: Any) -> None:
    probes = [ProbeService(Unavailable("the engine stopped")) for _ in range(3)]
    for probe in probes:
        probe.num_messages = 1
    addresses = [(await net.serve(probe)).address for probe in probes]
    retries = Retries(1)
    for picker in (Pair(*addresses[:2]), Pair(*addresses[2:])):  # the second after a re-route of the same request
        with pytest.raises(Unavailable) as caught:
            await fetch(net.peers(picker), retries)
        assert caught.value.is_final
        assert caught.value.retry_after_s is None
    assert [len(probe.seen) for probe in probes] == [1, 1, 1]


async def test_work_that_may_bring_a_replica_down_does_not_meet_it_twice(net: Any) -> None:
    probe = ProbeService(Unavailable("the engine stopped"))
    probe.num_messages = 1
    with pytest.raises(Unavailable, match="stopped") as caught:
        await fetch(net.peers((await net.serve(probe)).address), Retries(1))
    assert len(probe.seen) == 1
    assert caught.value.is_final
    assert caught.value.retry_after_s, "it may have been the replica's own end"


@pytest.mark.parametrize("cardinality", CALLS)
async def test_a_client_hears_no_address_of_ours(net: Any, cardinality: str, caplog: pytest.LogCaptureFixture) -> None:
    near = await net.serve(RelayService(net.peers("127.0.0.1:1")))
    caplog.handler.setFormatter(JsonLines())
    with call_scope(CallContext.begin("req-9")), pytest.raises(Unavailable) as caught:
        await CALLS[cardinality][0](net.peers(near.address))
    assert caught.value.message == "adapters is not reachable"
    assert "back-off" in caught.value.remedy
    assert caught.value.retry_after_s
    logged = [json.loads(line) for line in caplog.text.splitlines()]
    told = [line for line in logged if line["message"].startswith("a call to adapters failed")]
    assert {(line["request_id"], line["address"], line["code"]) for line in told} == {
        ("req-9", "127.0.0.1:1", "UNAVAILABLE")
    }


async def test_a_stream_that_has_begun_is_not_retried(net: Any) -> None:
    picker = Alternating((await net.serve(ProbeService(Unavailable("gone")))).address)
    answers = net.peers(picker).adapters.stub.Fetch(FETCH)
    assert [(await anext(answers)).data, (await anext(answers)).data] == [b"\0", b"\1"]
    with pytest.raises(Unavailable):
        await anext(answers)
    assert picker.num_picks == 1


async def test_an_upload_refused_half_way_gives_the_servers_reason(net: Any) -> None:
    near = await net.serve(RelayService(net.peers((await net.serve(ProbeService(AdapterRefused("no")))).address)))
    with pytest.raises(AdapterRefused, match="no"):
        await net.peers(near.address).adapters.stub.Put(chunks(*[b"x" * 2**20] * 64))


async def test_an_upload_whose_source_breaks_is_never_taken_for_complete(net: Any) -> None:
    async def broken() -> AsyncIterator[adapters_pb2.PutRequest]:
        async for part in chunks(b"a", b"b"):
            yield part
        await asyncio.sleep(0.005)  # the messages are on their way
        raise OSError("disk")

    probe = ProbeService()
    far = await net.serve(probe)
    near = await net.serve(RelayService(net.peers(far.address)))
    peers = net.peers(near.address)
    for _ in range(20):  # the end of a broken stream and its cancellation race inside grpc.aio
        with pytest.raises(OSError, match="disk"):
            await peers.adapters.stub.Put(broken())
    async with asyncio.timeout(10):
        while near.inflight or far.inflight:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    assert not probe.has_seen_end_of_upload
    assert await CALLS["upload"][0](peers) == "ab"
