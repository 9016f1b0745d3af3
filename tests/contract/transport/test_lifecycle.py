"""Start, health, reflection, limits and drain of one server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ramole.core.errors import LimitExceeded, RamoleError, Unavailable, WrongState
from ramole.core.settings import ServerSettings
from ramole.transport.server import GrpcServer
from support.probe_service import CALLS, ProbeService, peers_at

GET = "/ramole.v1.Adapters/GetStored"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


async def health(address: str, service: str = "") -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_health_turns_serving_when_the_service_has_started_and_not_before(net: Any) -> None:
    probe = ProbeService()
    probe.start_gate.clear()
    server = GrpcServer(probe, ServerSettings())
    starting = asyncio.create_task(server.start())
    try:
        await until(lambda: server.port > 0)
        for service in ("", probe.full_name):
            assert await health(server.address, service) == "NOT_SERVING"
        with pytest.raises(Unavailable, match="starting"):
            await CALLS["unary"][0](net.peers(server.address))
        probe.start_gate.set()
        await starting
        for service in ("", probe.full_name):
            assert await health(server.address, service) == "SERVING"
        assert await CALLS["unary"][0](net.peers(server.address)) == "x"
    finally:
        probe.start_gate.set()
        await starting
        await server.stop()
    assert not probe.is_open


async def test_health_follows_what_the_service_says_of_itself(net: Any) -> None:
    probe = ProbeService()
    server = await net.serve(probe)
    async with grpc.aio.insecure_channel(server.address) as channel, asyncio.timeout(30):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=probe.full_name))
        seen = aiter(watch)
        assert (await anext(seen)).status == health_pb2.HealthCheckResponse.SERVING
        probe.sickness = Unavailable("the engine has failed")
        assert (await anext(seen)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await health(server.address) == "NOT_SERVING"
        with pytest.raises(Unavailable, match="engine"):
            server.check_health()
        probe.sickness = None
        assert (await anext(seen)).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_a_stopping_server_finishes_what_runs_and_takes_nothing_new(net: Any) -> None:
    probe = ProbeService()
    probe.gate.clear()
    server = await net.serve(probe, ServerSettings(grace_s=10))
    running = asyncio.create_task(CALLS["unary"][0](net.peers(server.address)))  # type: ignore[arg-type]
    await probe.entered.wait()
    stopping = [asyncio.create_task(server.stop()) for _ in range(2)]
    await until(lambda: not server.is_serving)
    with pytest.raises(Unavailable):
        await CALLS["unary"][0](net.peers(server.address))
    assert probe.is_open
    probe.gate.set()
    assert await running == "x"
    await asyncio.gather(*stopping)
    assert not probe.is_open


async def test_calls_that_outlive_the_grace_period_are_cut_off(net: Any) -> None:
    probe = ProbeService()
    probe.gate.clear()
    server = await net.serve(probe, ServerSettings(grace_s=0.1))
    running = asyncio.create_task(CALLS["upload"][0](net.peers(server.address)))  # type: ignore[arg-type]
    await probe.entered.wait()
    async with asyncio.timeout(10):
        await server.stop()
    assert probe.closed.is_set()
    with pytest.raises(RamoleError):
        await running


@pytest.mark.parametrize("cardinality", CALLS)
async def test_one_call_too_many_is_refused_while_health_still_answers(net: Any, cardinality: str) -> None:
    probe = ProbeService()
    probe.gate.clear()
    server = await net.serve(probe, ServerSettings(max_inflight=1, max_transfers=1))
    peers = net.peers(server.address)
    call, answer = CALLS[cardinality]
    running = asyncio.create_task(call(peers))  # type: ignore[arg-type]
    await probe.entered.wait()
    assert server.inflight == 1
    with pytest.raises(LimitExceeded) as caught:
        await call(peers)
    assert "retry" in caught.value.remedy
    assert await health(server.address) == "SERVING"
    probe.gate.set()
    assert await running == answer
    assert await call(peers) == answer
    assert server.inflight == 0


async def test_reflection_lists_the_service(net: Any) -> None:
    server = await net.serve(ProbeService())
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        (answer,) = [answer async for answer in call]
    names = {service.name for service in answer.list_services_response.service}
    assert names == {"ramole.v1.Adapters", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_taken_port_is_an_error_that_names_the_setting(net: Any) -> None:
    first = await net.serve(ProbeService())
    with pytest.raises(WrongState) as caught:
        await net.serve(ProbeService(), ServerSettings(port=first.port))
    assert caught.value.field == "adapters.server.port"
    assert caught.value.remedy


async def test_a_failed_start_leaves_the_port_free() -> None:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    probe = ProbeService()
    probe.start_failure = WrongState("no model")
    with pytest.raises(WrongState, match="no model"):
        await GrpcServer(probe, ServerSettings(port=port)).start()
    server = GrpcServer(ProbeService(), ServerSettings(port=port))
    await server.start()
    await server.stop()


async def test_metrics_count_calls_by_method_and_code() -> None:
    probe = ProbeService()
    server = GrpcServer(probe, ServerSettings())
    await server.start()
    peers = peers_at(server.address)
    try:
        await CALLS["unary"][0](peers)
        probe.failure = WrongState("no")
        for _ in range(2):
            with pytest.raises(WrongState):
                await CALLS["unary"][0](peers)
    finally:
        await peers.close()
        await server.stop()

    def value(name: str, **labels: str) -> float | None:
        return server.registry.get_sample_value(name, {"method": GET, **labels})

    assert value("ramole_requests_total", code="OK") == 1
    assert value("ramole_requests_total", code="FAILED_PRECONDITION") == 2
    assert value("ramole_request_duration_seconds_count") == 3
    assert value("ramole_requests_in_flight") == 0
