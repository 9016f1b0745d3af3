"""Changed settings and a second cluster, under load: what Kubernetes users do each week breaks nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ramole.app.services import SERVICES
from ramole.client import RamoleClient
from ramole.core.errors import RamoleError
from ramole.lab.chaos.history import OK
from ramole.lab.chaos.traffic import Tenant, Traffic
from ramole.lab.milvus_server import MilvusServer
from ramole.zoo.catalog import Zoo
from statuses import ROWS
from support.cluster_config import NODE, ClusterConfig, patched
from support.fault_report import Row, row_of
from support.fleet import serving_gateways
from support.ray_cluster import RayCluster
from support.s3_server import new_bucket, s3_server
from support.traffic_tasks import two_tenants
from support.traffic_world import following

pytestmark = pytest.mark.fault

CODES = frozenset(row.kind.reason() for row in ROWS)
CALM_S = 5.0
UPDATE_S = 240.0

ONE_OF_EACH: dict[str, Any] = {
    "embedding": {"replicas": 1},
    "retrieval": {"replicas": 1},
    "executor": {"replicas": 1, "dtype": "float32"},
    "gateway": {"server": {"port": 0}, "http": {"port": None}},
}
"""The hardest case: an update that ended the only replica first would be seen at once."""


@dataclass(slots=True)
class Site:
    """What outlives every cluster (store, index, keys), the first cluster on it, and what that was told."""

    first: RayCluster
    config: ClusterConfig
    tenants: tuple[Tenant, ...]
    variables: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, zoo: Zoo) -> Iterator[Site]:
    if not MilvusServer.is_installed():
        pytest.skip("NOT CHECKED: there is no Milvus server here")
    folder = tmp_path_factory.mktemp("site")
    milvus = MilvusServer(tmp_path_factory.mktemp("milvus")).start()
    try:
        with s3_server() as s3:
            variables = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": s3}
            config = patched("gpu-prod", folder, milvus.uri, new_bucket(s3)).changed(**ONE_OF_EACH)
            tenants = two_tenants(zoo, config.keys)
            first = RayCluster(folder / "first.log", NODE, variables)
            try:
                first.wait_until_up().apply(config.config)
                first.wait_until_running(tuple(SERVICES))
                yield Site(first, config, tenants, variables)
            finally:
                first.stop()
    finally:
        milvus.stop()


# What changes, whose replicas are replaced, seconds for which requests may fail (0: none may).
UPDATES: dict[str, tuple[dict[str, Any], str, float]] = {
    "update of the executors": ({"executor": {"max_rows": 16}}, "executor", 0),
    "update of the gateways": ({"gateway": {"deadline_s": 90}}, "gateway", 0),
    "update of the adapter store": ({"adapters": {"keep_versions": 5}}, "adapters", 60),
}


@pytest.mark.parametrize("update", UPDATES)
async def test_an_update_in_place(update: str, site: Site, add_row: Callable[[Row], None]) -> None:
    change, service, bound_s = UPDATES[update]
    cluster = site.first
    async with following(lambda: serving_gateways(cluster.processes())) as front:
        traffic = Traffic(front.address, site.tenants, CODES, askers=2)
        await traffic.set_up()
        before = {name: cluster.replicas(name) for name in SERVICES}
        async with traffic.running():
            await asyncio.sleep(CALM_S)
            since_s = traffic.now_s
            site.config = site.config.changed(**change)
            await asyncio.to_thread(cluster.apply, site.config.config)
            await until(lambda: is_replaced(cluster, service, before[service]))
            await asyncio.sleep(CALM_S)
        await traffic.close()
    after = {name: cluster.replicas(name) for name in SERVICES}
    assert {name for name in SERVICES if after[name] != before[name]} == {service}
    row = row_of(update, traffic.history, since_s, f"{bound_s:.0f} s" if bound_s else "none fails")
    add_row(row)
    assert list(traffic.history.complaints()) == []
    assert row.requests
    assert row.recovery_s <= bound_s, row.codes


async def test_a_second_cluster_takes_over(
    site: Site, tmp_path: Path, zoo: Zoo, add_row: Callable[[Row], None]
) -> None:
    second = RayCluster(tmp_path / "second.log", NODE, site.variables)
    clusters = [site.first, second]

    def gateways() -> list[str]:
        return [address for each in clusters for address in serving_gateways(each.processes())]

    try:
        await asyncio.to_thread(second.wait_until_up)
        async with following(gateways) as service:
            traffic = Traffic(service.address, site.tenants, CODES, askers=2)
            await traffic.set_up()
            async with traffic.running():
                await asyncio.sleep(CALM_S)
                since_s = traffic.now_s
                config = site.config.changed(data_dir=str(tmp_path / "data"))
                await asyncio.to_thread(second.apply, config.config)
                await asyncio.to_thread(second.wait_until_running, tuple(SERVICES))
                await until(lambda: len(serving_gateways(second.processes())) == 1)
                await asyncio.sleep(CALM_S)
                await told_by_the_other(site, second, zoo)
                await asyncio.to_thread(site.first.apply, {"applications": []})
                await until(lambda: not any(name in site.first.applications() for name in SERVICES))
                ended_s = traffic.now_s
                await asyncio.sleep(2 * CALM_S)
            await traffic.close()
    finally:
        second.stop()
    history = traffic.history
    add_row(row_of("a second cluster takes over", history, since_s, "none fails; uploads are repeated"))
    assert list(history.complaints()) == []
    assert history.failed(since_s) == []
    last = [each.code for each in history.changed if each.action == "upload" and each.start_s > ended_s]
    assert last
    assert set(last) == {OK}


async def told_by_the_other(site: Site, second: RayCluster, zoo: Zoo) -> None:
    """While both serve: what the new cluster takes and revokes, the old one follows within seconds."""
    (old,), (new,) = (serving_gateways(each.processes()) for each in (site.first, second))
    tenant = site.tenants[0]
    adapter = zoo.adapters[5]
    prompt = adapter.prompts[0].prompt
    async with RamoleClient(old, key=tenant.key) as there, RamoleClient(new, key=tenant.key) as here:
        await here.upload(adapter.path, adapter.samples, adapter="late")
        await until_async(lambda: answers(there, prompt, "late"))
        await here.revoke("late", comment="while two clusters serve")
        await until_async(lambda: refuses(there, prompt, "late"))


async def answers(client: RamoleClient, prompt: str, adapter: str) -> bool:
    try:
        await client.complete(prompt, adapters=[adapter])
    except RamoleError:
        return False
    return True


async def refuses(client: RamoleClient, prompt: str, adapter: str) -> bool:
    return not await answers(client, prompt, adapter)


def is_replaced(cluster: RayCluster, service: str, before: set[str]) -> bool:
    """Whether new replicas serve in place of the old ones."""
    now = cluster.replicas(service)
    return len(now) == len(before) and not now & before and cluster.applications()[service]["status"] == "RUNNING"


async def until(holds: Callable[[], bool]) -> None:
    """Returns once it does."""

    async def asked() -> bool:
        return await asyncio.to_thread(holds)

    await until_async(asked)


async def until_async(holds: Callable[[], Any]) -> None:
    """Returns once it does."""
    deadline = time.monotonic() + UPDATE_S
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)
