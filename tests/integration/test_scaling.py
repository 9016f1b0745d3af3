"""On a real Ray, under traffic: 1 -> 2 -> 1 -> none -> 1 executors, and not one request fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.client.client import RamoleClient
from ramole.core.composition import Composition, Weighting
from ramole.core.sampling import Sampling
from support.server_process import ServerProcess

BARE = Composition(Weighting.UNIFORM, k=0)
LONG = Sampling(max_tokens=120)
SCALING = {"MIN": "0", "MAX": "2", "TARGET": "0.5", "UP_S": "2", "DOWN_S": "6", "IDLE_S": "10"}


class Traffic:
    """Clients that ask without a pause; what fails, fails the test."""

    def __init__(self, client: RamoleClient) -> None:
        self._client = client
        self.num_answers = 0

    @asynccontextmanager
    async def of(self, num_clients: int) -> AsyncIterator[None]:
        """Inside the block so many of them ask."""
        is_over = asyncio.Event()
        asking = [asyncio.create_task(self._ask(number, is_over)) for number in range(num_clients)]
        try:
            yield
        finally:
            is_over.set()
            await asyncio.gather(*asking)

    async def _ask(self, number: int, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            await self._client.complete(f"the dog {number} sees", composition=BARE, sampling=LONG)
            self.num_answers += 1


def num_processes(server: ServerProcess) -> int:
    """Of executors, whether they serve already or not."""
    num = 0
    for process in server.descendants():
        with suppress(psutil.NoSuchProcess):
            num += "ServeReplica:executor" in " ".join(process.cmdline())
    return num


@pytest.mark.slow
async def test_executors_come_and_go_with_the_traffic(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    env = {f"RAMOLE_EXECUTOR__SCALING__{key}": value for key, value in SCALING.items()}
    server = ServerProcess(tmp_path / "data", env=env | {"RAMOLE_EXECUTOR__MAX_ROWS": "4"})
    await asyncio.to_thread(server.wait_until_serving)

    async def until(condition: Callable[[], bool]) -> float:
        """Seconds."""
        started_s = time.monotonic()
        async with asyncio.timeout(200):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.2)
        return time.monotonic() - started_s

    async def until_serving(num_slots: int) -> float:
        started_s = time.monotonic()
        async with asyncio.timeout(200):
            while (await client.describe()).num_slots != num_slots:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.2)
        return time.monotonic() - started_s

    took: dict[str, float] = {}
    async with RamoleClient(server.address, retries=0, timeout_s=200) as client:
        traffic, slots = Traffic(client), (await client.describe()).num_slots
        async with traffic.of(12):
            took["decided up"] = await until(lambda: num_processes(server) == 2)
            took["serving after that"] = await until_serving(2 * slots)
        async with traffic.of(1):
            took["down"] = await until_serving(slots)
            took["gone after that"] = await until(lambda: num_processes(server) == 1)
        took["none"] = await until_serving(0)
        async with grpc.aio.insecure_channel(server.address) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        await until(lambda: num_processes(server) == 0)
        started_s = time.monotonic()
        answers = await asyncio.gather(*(client.complete("the dog", composition=BARE, sampling=LONG) for _ in range(3)))
        took["first answer after none"] = time.monotonic() - started_s
        assert len({answer.text for answer in answers}) == 1
    for name, seconds in took.items():
        record_property(name, round(seconds, 1))
    print({name: round(seconds, 1) for name, seconds in took.items()}, traffic.num_answers)  # noqa: T201
    assert traffic.num_answers > 100
    assert not server.stop(), "processes outlived the server"
