"""The hooks that Ray Serve calls, called as Serve calls them, without Serve."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.core.errors import Unavailable
from ramole.core.settings import MetricsSettings, ServerSettings
from ramole.observability.export import Shared
from ramole.transport.replica import Replica, deployment_options
from ramole.transport.server import GrpcServer
from support.probe_service import ProbeService, call_unary, call_upload, peers_at
from support.server_process import free_port


class Sick(ProbeService):
    def check_health(self) -> None:
        raise Unavailable("the engine has failed")


async def replica_of(service: ProbeService, host: str = "127.0.0.1", metrics: Path | None = None) -> Replica:
    settings = MetricsSettings(port=0 if metrics is None else free_port())
    replica = Replica.__new__(Replica)
    await replica.__init__(  # type: ignore[misc]
        lambda: GrpcServer(service, ServerSettings(host=host)),
        lambda: "127.0.0.1",
        lambda server: Shared(server.name, server.registry, settings, metrics),
    )
    return replica


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = await replica_of(ProbeService())
    yield replica
    drain = replica.__del__()
    if drain is not None:
        await drain


async def test_a_replica_serves_where_its_metadata_says(replica: Replica) -> None:
    peers = peers_at(replica.record_replica_metadata()["address"])
    assert await call_unary(peers) == "x"
    await peers.close()


async def test_a_replica_on_all_interfaces_publishes_the_address_of_its_node() -> None:
    replica = await replica_of(ProbeService(), host="0.0.0.0")
    assert replica.address().startswith("127.0.0.1:")
    drain = replica.__del__()
    assert drain is not None
    await drain


async def test_a_replica_reports_residents_and_the_calls_that_run() -> None:
    service = ProbeService()
    service.gate.clear()
    replica = await replica_of(service)
    peers = peers_at(replica.address())
    running = [asyncio.create_task(call(peers)) for call in (call_unary, call_upload)]
    async with asyncio.timeout(20), grpc.aio.insecure_channel(replica.address()) as channel:
        # Who watches is no work.
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        while len(service.seen) < 2:  # noqa: ASYNC110  # no event tells of the second
            await asyncio.sleep(0.01)
        assert replica.record_routing_stats() == {"adapters": ["a"], "capacity": 40, "load": 2.0}
        assert replica.record_autoscaling_stats() == {"inflight": 2.0}
        replica.check_health()
        service.gate.set()
        await asyncio.gather(*running)
        assert replica.record_autoscaling_stats() == {"inflight": 0.0}
    await peers.close()
    drain = replica.__del__()
    assert drain is not None
    await drain


async def test_a_replica_leaves_its_metrics_for_whoever_answers_for_the_machine(tmp_path: Path) -> None:
    replica = await replica_of(ProbeService(), metrics=tmp_path)
    peers = peers_at(replica.address())
    await call_unary(peers)
    file = tmp_path / "adapters-0.json"
    deadline = time.monotonic() + 20
    while "ramole_requests_total" not in file.read_text():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    await peers.close()
    drain = replica.__del__()
    assert drain is not None
    await drain
    assert not file.exists()


async def test_the_destructor_drains_once_and_the_replica_is_then_unhealthy() -> None:
    service = ProbeService()
    replica = await replica_of(service)
    drain = replica.__del__()
    assert drain is not None
    await drain
    assert not service.is_open
    assert replica.__del__() is None
    with pytest.raises(Unavailable):
        replica.check_health()


async def test_a_failed_engine_makes_the_replica_unhealthy() -> None:
    replica = await replica_of(Sick())
    with pytest.raises(Unavailable, match="engine"):
        replica.check_health()
    assert replica.record_routing_stats()["load"] == math.inf, "nobody comes here by choice"
    assert replica.record_autoscaling_stats() == {"inflight": 0.0}, "and it asks for no others"
    drain = replica.__del__()
    assert drain is not None
    await drain


def test_serve_waits_longer_than_the_server_drains() -> None:
    assert deployment_options("x", ServerSettings(grace_s=7), has_fixed_port=False)["graceful_shutdown_timeout_s"] > 7


def test_a_port_that_is_given_is_listened_on_once_on_each_machine() -> None:
    assert deployment_options("x", ServerSettings(), has_fixed_port=True)["max_replicas_per_node"] == 1
    assert "max_replicas_per_node" not in deployment_options("x", ServerSettings(), has_fixed_port=False)
