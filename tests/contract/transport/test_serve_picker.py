"""The private corner of Ray Serve that the picker stands on, with two real replicas. Run it on every Ray release."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ramole.core.call import CallContext, call_scope
from ramole.core.errors import Unavailable
from ramole.core.settings import MetricsSettings, ServerSettings
from ramole.observability.export import Shared
from ramole.transport.picker import ServePicker
from ramole.transport.server import GrpcServer
from support.probe_service import call_unary, peers_at, probe_server

pytestmark = pytest.mark.slow

PROBE = "probe"


def no_metrics(server: GrpcServer) -> Shared:
    return Shared(server.name, server.registry, MetricsSettings())


@pytest.fixture(scope="module")
def replicas() -> Iterator[None]:
    """Two replicas behind the affinity router."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from ramole.transport.replica import Replica, deployment_options

    folder = tempfile.mkdtemp(prefix="ramole-", dir="/tmp")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    try:
        ray.init(
            address="local",
            _temp_dir=folder,
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
        serve.start(proxy_location="Disabled")
        router = RequestRouterConfig(
            request_router_class="ramole.transport.affinity_router:AdapterAffinityRouter",
            request_routing_stats_period_s=0.5,
        )
        options = deployment_options(PROBE, ServerSettings(grace_s=1.0), has_fixed_port=False)
        deployment = serve.deployment(**options, num_replicas=2, request_router_config=router)(Replica)
        serve.run(deployment.bind(probe_server, str, no_metrics), name=PROBE, route_prefix=None)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


async def pick(picker: ServePicker, *wanted: str) -> str:
    async with picker.pick(wanted) as address:
        return address


async def test_picks_reach_the_servers_that_the_replicas_run_themselves(replicas: None) -> None:
    picker = ServePicker(PROBE)
    addresses = set(await picker.everyone())
    assert len(addresses) == 2
    assert {await pick(picker, str(i)) for i in range(20)} == addresses
    for address in addresses:
        peers = peers_at(address)
        assert await call_unary(peers) == "x"
        await peers.close()


async def test_a_set_of_adapters_stays_where_it_is_and_cold_sets_spread(replicas: None) -> None:
    picker = ServePicker(PROBE)
    sets = [(f"p{i}", f"q{i}", f"r{i}") for i in range(40)]
    first = [await pick(picker, *wanted) for wanted in sets]
    again = [await pick(picker, *wanted) for wanted in sets]
    assert first == again
    assert min(Counter(first).values()) >= 10


async def test_calls_in_flight_push_the_next_one_to_the_other_replica(replicas: None) -> None:
    picker = ServePicker(PROBE)
    home = await pick(picker, "hot")
    release = asyncio.Event()

    async def hold() -> None:
        async with picker.pick(["hot"]) as address:
            assert address == home
            await release.wait()

    holders: list[asyncio.Task[None]] = []
    for _ in range(30):
        if await pick(picker, "hot") != home:
            break
        holders.append(asyncio.create_task(hold()))
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*holders)
    assert 8 <= len(holders) < 30
    assert await pick(picker, "hot") == home


async def test_a_replica_that_has_just_failed_is_avoided_even_by_its_own_adapters(replicas: None) -> None:
    picker = ServePicker(PROBE)
    for i in range(20):
        home = await pick(picker, f"p{i}")
        async with picker.pick([f"p{i}"], avoid=home) as other:
            assert other != home
        assert await pick(picker, f"p{i}") == home


async def test_a_pick_costs_about_as_much_as_was_measured(replicas: None) -> None:
    picker = ServePicker(PROBE)
    await pick(picker)
    started = time.perf_counter()
    for _ in range(100):
        await pick(picker)
    assert (time.perf_counter() - started) / 100 < 0.02  # 0.3 ms on a quiet machine


async def test_a_service_without_replicas_is_unavailable_within_the_deadline(replicas: None) -> None:
    picker = ServePicker("nobody")
    with call_scope(CallContext.begin(timeout_s=0.5)), pytest.raises(Unavailable, match="nobody"):
        await pick(picker)
