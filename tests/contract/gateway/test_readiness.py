"""Health and ``/ready`` follow the base, the index and every service behind the gateway, and say what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymilvus.exceptions import MilvusException

from ramole.core.errors import Unavailable
from ramole.core.settings import ServerSettings
from ramole.executor.servicer import ExecutorService
from ramole.gateway.readiness import Readiness
from ramole.transport.peers import Peers
from ramole.transport.picker import DirectoryPicker
from ramole.transport.server import ACCEPTING, GrpcServer
from support.front_door import BothPorts
from support.gateway_world import TRUST
from support.real_door import RealDoor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealDoor]:
    door = RealDoor(tmp_path_factory.mktemp("door"))
    door.open_both()
    await door.start_neighbours()
    await door.start_gateway()
    yield door
    await door.stop()


class Watch:
    """What health says, as it changes, of the server and of the service."""

    def __init__(self, door: BothPorts) -> None:
        self._channel = grpc.aio.insecure_channel(door.grpc_address)
        self._door = door

    async def __aenter__(self) -> Watch:
        stub = health_pb2_grpc.HealthStub(self._channel)
        names = ("", "ramole.v1.Gateway")
        self._calls = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in names]
        self._seen = [aiter(call) for call in self._calls]
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self._calls:
            call.cancel()
        await self._channel.close()

    async def until(self, status: Any) -> None:
        """The next change is to it."""
        async with asyncio.timeout(30):
            assert [(await anext(seen)).status for seen in self._seen] == [status, status]

    async def is_accepting(self) -> bool:
        """What the kubelet of a gateway's pod asks."""
        request = health_pb2.HealthCheckRequest(service=ACCEPTING)
        answer = await health_pb2_grpc.HealthStub(self._channel).Check(request, timeout=10)
        return bool(answer.status == SERVING)

    async def ready(self) -> tuple[int, str]:
        """Status and message of ``/ready``; within the time that an answer is kept it may be the one before."""
        async with self._door.http() as http:
            answer = await http.get("/ready")
            assert (await http.get("/health")).status_code == 200, "the process lives"
        if answer.status_code == 200:
            return 200, answer.json()["status"]
        assert "retry-after" in answer.headers
        return answer.status_code, answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["embedding", "retrieval", "adapters", "executor"])
async def test_health_is_serving_while_each_service_has_a_replica(door: RealDoor, name: str) -> None:
    service = getattr(door, name)
    async with Watch(door) as watch:
        await watch.until(SERVING)
        assert await watch.ready() == (200, "ready")
        await door.servers[name].stop()
        await watch.until(NOT_SERVING)
        status, why = await watch.ready()
        assert status == 503
        assert f"no replica of {name} serves" in why
        told = await door.client.describe()
        assert [each.name for each in told.services if not each.serving] == [name], "also where it was the executor"
        again = type(service)(door.settings) if name == "retrieval" else service
        if name == "adapters":  # the store of the one that stopped is closed
            again = type(service)(door.settings, service._base)
        setattr(door, name, again)
        again.__dict__.pop("registry", None)
        server = door.servers[name] = GrpcServer(again, ServerSettings(), identify=TRUST.identify)
        await server.start()
        door._stack.push_async_callback(server.stop)
        door._directory[name] = server.address
        await watch.until(SERVING)
        assert await watch.ready() == (200, "ready")


async def test_an_index_that_does_not_answer_is_missing(door: RealDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service lives, so that who waits is told; yet it is not ready, and so neither is the gateway."""

    def fail() -> None:
        raise MilvusException(message="the server is gone")

    async with Watch(door) as watch:
        await watch.until(SERVING)
        with monkeypatch.context() as patch:
            patch.setattr(door.retrieval._index, "_current", fail)
            await watch.until(NOT_SERVING)
            assert "no replica of retrieval serves" in (await watch.ready())[1]
            assert (await door.client.complete("go", adapters=[])).text, "it is told, not refused"
            assert await watch.is_accepting(), "and so no load balancer takes it out"
        await watch.until(SERVING)


async def test_a_gateway_that_starts_without_a_service_is_not_serving() -> None:
    """Nothing generates yet: its start waits; without an index it goes on, and says that it is not ready."""
    door = BothPorts()
    door.open_both(index_patience_s=0.1)
    await door.start_neighbours()
    await door.servers["retrieval"].stop()
    try:
        await door.start_gateway()
        async with Watch(door) as watch:
            await watch.until(NOT_SERVING)
            assert "no replica of retrieval serves" in (await watch.ready())[1]
    finally:
        await door.stop()


async def test_an_executor_serves_once_the_base_is_loaded() -> None:
    """Its own health, which the gateway's follows."""
    door = BothPorts()
    loading, go_on = asyncio.Event(), asyncio.Event()

    class Loading(type(door.executor)):  # type: ignore[misc]
        async def start(self) -> None:
            loading.set()
            await go_on.wait()

    assert ExecutorService.start.__qualname__ == "ExecutorService.start", "where the real one loads it"
    server = GrpcServer(Loading(door.log), ServerSettings(), identify=TRUST.identify)
    starting = asyncio.create_task(server.start())
    await loading.wait()
    door._directory |= dict.fromkeys(("embedding", "retrieval", "adapters", "executor"), server.address)
    peers = door.peers()
    with pytest.raises(Unavailable, match="no replica of executor serves: nothing is generated"):
        await Readiness(peers).check()
    go_on.set()
    await starting
    with pytest.raises(Unavailable) as missing:
        await Readiness(peers).check()
    assert "executor" not in str(missing.value)
    assert str(missing.value).count("no replica") == 3, "all that is missing is named"
    await door.stop()
    await server.stop()


async def test_a_replica_that_cannot_be_reached_hides_no_other(door: RealDoor) -> None:
    """Ray asks all replicas for their addresses, and waits for the one on a node that is cut off."""

    class Cut(DirectoryPicker):
        is_cut = False

        async def everyone(self) -> Sequence[str]:
            if self.is_cut:
                await asyncio.Event().wait()
            return await super().everyone()

    peers = Peers(lambda name: Cut(door._directory, name), TRUST)
    name = "ramole.v1.Executor"
    await peers.executor.check_any_serves(name)
    Cut.is_cut = True
    await peers.executor.check_any_serves(name, timeout_s=0.2)
    with pytest.raises(Unavailable):  # one that was never known
        await peers.embedding.check_any_serves("ramole.v1.Embedding", timeout_s=0.2)
    await peers.close()


async def test_health_is_asked_for_once_in_a_while_however_many_ask(door: RealDoor) -> None:
    now, asked = 0.0, []
    readiness = Readiness(door.peers(), clock=lambda: now)
    serves = readiness._serves

    async def counted(name: str) -> bool:
        asked.append(name)
        return await serves(name)

    readiness._serves = counted  # type: ignore[method-assign]
    await asyncio.gather(*(readiness.check() for _ in range(50)))
    await readiness.check()
    assert len(asked) == 4
    now = 10.0
    await readiness.check()
    assert len(asked) == 8
    await readiness.close()
