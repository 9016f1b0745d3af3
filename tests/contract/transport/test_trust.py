"""Behind the edge services hear each other and nobody else, before anything that was sent is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.core.call import ADMIN, CallContext, Principal, call_scope
from ramole.core.errors import RamoleError, Unauthenticated, WrongState
from ramole.core.settings import InternalTlsSettings, ServerSettings
from ramole.transport.identity import Peer, principal_to_metadata
from ramole.transport.peers import Peers
from ramole.transport.picker import StaticPicker
from ramole.transport.server import GrpcServer
from ramole.transport.trust import SECRET_KEY, Trust
from support.certificates import Authority
from support.probe_service import CALLS, ProbeService

SECRET = b"0123456789abcdef"
EVE = Principal("acme", "eve", frozenset({ADMIN}))


class Rig:
    """One service behind a trust, and callers with another or none."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.probe = ProbeService()

    async def serve(self, trust: Trust, host: str = "127.0.0.1") -> str:
        server = GrpcServer(
            self.probe,
            ServerSettings(host=host),
            identify=trust.identify,
            tls=trust.server_tls,
            has_reflection=False,
        )
        self._stack.push_async_callback(server.stop)
        await server.start()
        return server.address

    def peers(self, address: str, trust: Trust | None) -> Peers:
        peers = Peers(lambda _: StaticPicker(address), trust)
        self._stack.push_async_callback(peers.close)
        return peers


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield Rig(stack)


def certificates(folder: Path, authority: Authority, name: str = "localhost") -> InternalTlsSettings:
    folder.mkdir(exist_ok=True)
    cert, key, ca = authority.write(folder, name)
    return InternalTlsSettings(cert_file=str(cert), key_file=str(key), ca_file=str(ca), server_name="localhost")


@pytest.mark.parametrize("kind", CALLS)
async def test_a_service_is_believed_and_a_stranger_is_not(rig: Rig, kind: str) -> None:
    address = await rig.serve(Trust(SECRET))
    call, answer = CALLS[kind]
    with call_scope(CallContext.begin(principal=EVE)):
        assert await call(rig.peers(address, Trust(SECRET))) == answer
        assert rig.probe.principals == [EVE]
        for stranger in (None, Trust(SECRET + b"!"), Trust(b"another")):
            with pytest.raises(Unauthenticated, match="for the services of this system"):
                await call(rig.peers(address, stranger))
    assert rig.probe.principals == [EVE], "no work is done for a stranger"


@pytest.mark.parametrize("shown", ["", "x", "~" * 64, "0" * 64, "0" * 4096])
async def test_no_other_word_opens(rig: Rig, shown: str) -> None:
    address = await rig.serve(Trust(SECRET))
    async with grpc.aio.insecure_channel(address) as channel:
        metadata = ((SECRET_KEY, shown), *principal_to_metadata(EVE))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/ramole.v1.Adapters/GetStored")(b"", metadata=metadata, timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_header_that_is_no_text_is_no_word_either() -> None:
    with pytest.raises(Unauthenticated):
        Trust(SECRET).identify(Peer("x", metadata={SECRET_KEY: "\udcff\u00e9"}))


async def test_what_a_stranger_sends_is_not_read(rig: Rig) -> None:
    """Bytes that are no message would otherwise be INVALID_ARGUMENT."""
    address = await rig.serve(Trust(SECRET))
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/ramole.v1.Adapters/GetStored")(b"\xff\xff\xff", timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = Trust(SECRET).metadata
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/ramole.v1.Adapters/GetStored")(b"\xff\xff\xff", metadata=metadata, timeout=10)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_health_is_open_and_reflection_is_not_there(rig: Rig) -> None:
    address = await rig.serve(Trust(SECRET))
    async with grpc.aio.insecure_channel(address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        call = reflect(timeout=10)  # what is written to a stream that ends at once may break it first
        assert await call.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_certificates_of_the_systems_authority_open_and_no_others(rig: Rig, tmp_path: Path) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    trust = Trust(tls=certificates(tmp_path / "server", ours))
    address = await rig.serve(trust)
    friend = Trust(tls=certificates(tmp_path / "friend", ours, "executor"))
    with call_scope(CallContext.begin(principal=EVE)):
        assert await CALLS["unary"][0](rig.peers(address, friend)) == "x"
    assert rig.probe.principals == [EVE]
    forged = certificates(tmp_path / "mallory", theirs)
    (tmp_path / "mallory" / "ca.pem").write_bytes(ours.pem)  # believes the server, but is not believed
    for stranger in (None, Trust(SECRET), Trust(tls=forged)):
        with call_scope(CallContext.begin(timeout_s=5)), pytest.raises(RamoleError):
            await CALLS["unary"][0](rig.peers(address, stranger))
    assert rig.probe.principals == [EVE]


async def test_a_false_server_is_told_nothing(rig: Rig, tmp_path: Path) -> None:
    address = await rig.serve(Trust(tls=certificates(tmp_path / "mallory", Authority("theirs"))))
    ours = Trust(SECRET, certificates(tmp_path / "ours", Authority("ours")))
    with call_scope(CallContext.begin(timeout_s=5)), pytest.raises(RamoleError):
        await CALLS["unary"][0](rig.peers(address, ours))
    assert rig.probe.seen == []


async def test_both_are_asked_for_where_both_are_given(rig: Rig, tmp_path: Path) -> None:
    tls = certificates(tmp_path, Authority())
    address = await rig.serve(Trust(SECRET, tls))
    assert await CALLS["unary"][0](rig.peers(address, Trust(SECRET, tls))) == "x"
    with pytest.raises(Unauthenticated):
        await CALLS["unary"][0](rig.peers(address, Trust(tls=tls)))


async def test_renewed_certificates_are_used_while_calls_run_on(rig: Rig, tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    server, client = (certificates(tmp_path / side, old) for side in ("server", "client"))
    address = await rig.serve(Trust(tls=server))
    peers = rig.peers(address, Trust(tls=client))
    rig.probe.gate.clear()
    running = asyncio.create_task(CALLS["stream"][0](peers))
    await rig.probe.entered.wait()
    for side in ("server", "client"):
        certificates(tmp_path / side, new)
    rig.probe.gate.set()
    assert await CALLS["unary"][0](peers) == "x"
    assert await running == CALLS["stream"][1]
    with call_scope(CallContext.begin(timeout_s=5)), pytest.raises(RamoleError):  # the old ones are worth nothing now
        await CALLS["unary"][0](rig.peers(address, Trust(tls=certificates(tmp_path / "late", old))))


@pytest.mark.parametrize("make", [lambda _: Trust(), lambda tls: Trust(tls=tls)], ids=["nothing", "no files"])
def test_what_would_believe_everybody_cannot_be_made(make: Callable[[Any], Trust]) -> None:
    with pytest.raises(WrongState):
        make(InternalTlsSettings(cert_file="/none", key_file="/none", ca_file="/none"))
