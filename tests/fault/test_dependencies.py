"""A Milvus server and an object store that die, stall, break off, are slow or overloaded, under a system that serves.

Whatever the index does, requests that name their adapters are answered; whatever the store does, no request fails. What
fails says so with a documented code, nothing that was acknowledged is lost, and all of it ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from ramole.client import RamoleClient
from ramole.gateway.keys import KeyFile
from ramole.lab.chaos.traffic import Tenant
from ramole.lab.milvus_server import MilvusServer
from ramole.zoo.catalog import Zoo
from support.fault_proxy import FaultProxy
from support.fault_report import Row
from support.fault_run import PATIENCE_S, under_traffic
from support.http_faults import INTERNAL_ERROR, SLOW_DOWN, HttpFaults
from support.s3_server import new_bucket, s3_options, s3_server
from support.server_process import ServerProcess
from support.traffic_tasks import two_tenants

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

RECOVERY_S = 15.0
INDEX_TIMEOUT_S = 4.0
STORE_TIMEOUT_S = 60.0
"""Of one try, by botocore's default."""


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    if not MilvusServer.is_installed():
        pytest.skip("NOT CHECKED: there is no Milvus server here")
    # A server that comes back waits until its former self counts as dead; one that hangs ends itself by then.
    server = MilvusServer(tmp_path_factory.mktemp("milvus"), {"common.session.ttl": 20}).start()
    yield server
    server.stop(signal.SIGKILL)


@dataclass
class World:
    """A system, and a hand on the ways to its dependencies."""

    server: ServerProcess
    tenants: tuple[Tenant, ...]
    milvus: MilvusServer
    to_milvus: FaultProxy
    to_store: FaultProxy
    store: HttpFaults


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, zoo: Zoo, milvus: MilvusServer) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    data.mkdir()
    tenants = two_tenants(zoo, KeyFile(data / "keys.json"))
    async with AsyncExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        store = await stack.enter_async_context(HttpFaults(s3))
        to_store = await stack.enter_async_context(FaultProxy([store.address]))
        to_milvus = await stack.enter_async_context(FaultProxy([f"127.0.0.1:{milvus.port}"]))
        options = s3_options(f"http://{to_store.address}")
        server = ServerProcess(
            data,
            "--local",
            env={
                "RAMOLE_RETRIEVAL__URI": f"http://{to_milvus.address}",
                "RAMOLE_RETRIEVAL__TIMEOUT_S": str(INDEX_TIMEOUT_S),
                "RAMOLE_ADAPTERS__STORE_URI": await asyncio.to_thread(new_bucket, s3),
                "RAMOLE_ADAPTERS__STORE_OPTIONS": json.dumps(options),
            },
        )
        try:
            await asyncio.to_thread(server.wait_until_serving)
            yield World(server, tenants, milvus, to_milvus, to_store, store)
        finally:
            assert not await asyncio.to_thread(server.stop), "processes outlived the server"


async def falls_back(world: World, prompt: str) -> None:
    """Whoever allows it is answered by the base model while the index is down."""
    async with RamoleClient(world.server.address, key=world.tenants[0].key, timeout_s=60) as client:
        answer = await client.complete(prompt, may_fall_back=True)
    assert answer.routing.has_fallen_back


def delays(proxy: FaultProxy, delay_s: float) -> None:
    proxy.delay_s = delay_s


def stalls(proxy: FaultProxy, value: bool) -> None:
    proxy.is_stalled = value


def breaks_off(proxy: FaultProxy) -> None:
    proxy.refuses = True
    proxy.reset_all()


def takes_again(proxy: FaultProxy) -> None:
    proxy.refuses = False


INDEX_FAULTS: dict[str, tuple[Callable[[World], object], Callable[[World], object]]] = {
    "kill -9 of Milvus": (lambda w: w.milvus.stop(signal.SIGKILL), lambda w: w.milvus.start()),
    "Milvus stalls": (lambda w: stalls(w.to_milvus, True), lambda w: stalls(w.to_milvus, False)),
    "Milvus's connections are reset and refused": (
        lambda w: breaks_off(w.to_milvus),
        lambda w: takes_again(w.to_milvus),
    ),
}


async def done(step: Callable[[World], object], world: World, *, in_thread: bool) -> None:
    """Processes start and end in a thread; what proxies do is done in their loop."""
    await asyncio.to_thread(step, world) if in_thread else step(world)


@pytest.mark.parametrize("fault", INDEX_FAULTS)
async def test_an_index_that_is_down(fault: str, world: World, add_row: Callable[[Row], None]) -> None:
    strike, heal = INDEX_FAULTS[fault]
    async with under_traffic(world.server.address, world.tenants) as run:
        run.strikes()
        await done(strike, world, in_thread="kill" in fault)
        await run.has_lasted()
        await falls_back(world, world.tenants[0].tasks[0].prompts[0])
        await done(heal, world, in_thread="kill" in fault)
        run.heals()
        await run.is_well()
    add_row(run.row(fault, f"named: none fails; {RECOVERY_S:.0f} s after"))
    assert run.failed_named == []
    assert {one.code for one in run.traffic.history.failed(run.struck_s)} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert run.recovery_s <= RECOVERY_S


PASSING: dict[str, tuple[Callable[[World], object], Callable[[World], object]]] = {
    "Milvus answers 0.4 s late": (lambda w: delays(w.to_milvus, 0.2), lambda w: delays(w.to_milvus, 0)),
    "Milvus's connections are half closed": (lambda w: w.to_milvus.half_close_all(), lambda w: None),
    "Milvus's connections are reset": (lambda w: w.to_milvus.reset_all(), lambda w: None),
}


@pytest.mark.parametrize("fault", PASSING)
async def test_an_index_that_is_slow_or_breaks_off(fault: str, world: World, add_row: Callable[[Row], None]) -> None:
    strike, heal = PASSING[fault]
    async with under_traffic(world.server.address, world.tenants) as run:
        run.strikes()
        strike(world)
        await run.has_lasted()
        heal(world)
        run.heals()
        await run.is_well()
    add_row(run.row(fault, "none fails"))
    assert run.traffic.history.failed(run.struck_s) == []


def answers(fault: tuple[int, str, str] | None, share: int = 1) -> Callable[[World], None]:
    def step(world: World) -> None:
        world.store.fault, world.store.share = fault, share

    return step


STORE_FAULTS: dict[str, tuple[Callable[[World], object], Callable[[World], object]]] = {
    "S3 answers 503 SlowDown": (answers(SLOW_DOWN), answers(None)),
    "S3 answers every third request 503 SlowDown": (answers(SLOW_DOWN, 3), answers(None)),
    "S3 answers 500 InternalError": (answers(INTERNAL_ERROR), answers(None)),
    "S3 stalls": (lambda w: stalls(w.to_store, True), lambda w: stalls(w.to_store, False)),
    "S3 answers 0.4 s late": (lambda w: delays(w.to_store, 0.2), lambda w: delays(w.to_store, 0)),
    "S3's connections are reset and refused": (lambda w: breaks_off(w.to_store), lambda w: takes_again(w.to_store)),
    "S3's connections are half closed": (lambda w: w.to_store.half_close_all(), lambda w: None),
    "S3's connections are reset": (lambda w: w.to_store.reset_all(), lambda w: None),
}


@pytest.mark.parametrize("fault", STORE_FAULTS)
async def test_a_store_that_fails(fault: str, world: World, add_row: Callable[[Row], None]) -> None:
    strike, heal = STORE_FAULTS[fault]
    before = world.store.answered
    async with under_traffic(world.server.address, world.tenants) as run:
        run.strikes()
        strike(world)
        await run.has_lasted()
        heal(world)
        run.heals()
        await run.is_well()
    add_row(run.row(fault, f"requests: none fails; {RECOVERY_S:.0f} s after"))
    assert run.traffic.history.failed(run.struck_s) == []
    assert run.recovery_s <= RECOVERY_S
    assert any(code in fault for code in ("500", "503")) == (world.store.answered > before), Counter(
        one.code for one in run.changed
    )


async def test_a_start_that_waits_for_its_store_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    async with HttpFaults("http://127.0.0.1:9") as nobody, FaultProxy([nobody.address]) as store:
        store.is_stalled = True
        env = {
            "RAMOLE_ADAPTERS__STORE_URI": "s3://bucket/store",
            "RAMOLE_ADAPTERS__STORE_OPTIONS": json.dumps(s3_options(f"http://{store.address}")),
        }
        server = ServerProcess(tmp_path / "data", "--local", env=env)
        deadline = time.monotonic() + PATIENCE_S
        while not store.has_connections:
            assert time.monotonic() < deadline, server.log
            assert server.process.poll() is None, server.log
            await asyncio.sleep(0.1)
        began = time.monotonic()
        assert not await asyncio.to_thread(server.stop), "processes outlived the server"
        assert server.process.returncode == 0
        assert time.monotonic() - began < STORE_TIMEOUT_S, "it waited for the store"
