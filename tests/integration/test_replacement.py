"""Without Ray too: an engine that ends or hangs is noticed, its callers are answered, and another takes its place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.app.local import LocalSystem
from ramole.app.resolution import resolve
from ramole.client.client import RamoleClient
from ramole.core.composition import Composition, Weighting
from ramole.core.errors import Unavailable
from ramole.core.sampling import Sampling
from ramole.core.settings import ExecutorSettings, GatewaySettings, HttpSettings, PublicServerSettings, Settings
from ramole.executor.servicer import ExecutorService

BARE = Composition(Weighting.UNIFORM, k=0)
SHORT = Sampling(max_tokens=6)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[LocalSystem]:
    system = LocalSystem()
    settings = Settings(
        data_dir=tmp_path,
        gateway=GatewaySettings(server=PublicServerSettings(port=0), http=HttpSettings(port=0)),
        executor=ExecutorSettings(max_step_s=3.0),  # a slow machine's steps are shorter
    )
    await system.start(resolve(settings))
    yield system
    await system.stop()


def break_engine(system: LocalSystem, how: str, release: threading.Event) -> None:
    engine: Any = system._servers["executor"]._service._engine  # type: ignore[attr-defined]

    def lost(*_: object) -> Any:
        raise RuntimeError("device lost")

    def hang(*_: object) -> Any:
        release.wait(120)
        raise RuntimeError("too late")

    engine._runner.run = lost if how == "ends" else hang
    engine._runner.check_device = lost


async def test_an_engine_that_fails_is_replaced(system: LocalSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    release, may_start = threading.Event(), asyncio.Event()
    start = ExecutorService.start

    async def start_when_told(service: ExecutorService) -> None:
        """A machine on which the replacement comes sooner than the gateway looks shows no gap between the two."""
        await may_start.wait()
        await start(service)

    monkeypatch.setattr(ExecutorService, "start", start_when_told)
    async with (
        RamoleClient(system.address, retries=0) as client,
        grpc.aio.insecure_channel(system.address) as channel,
        asyncio.timeout(240),
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        health = aiter(watch)
        assert (await anext(health)).status == SERVING
        want = (await client.complete("the dog", composition=BARE, sampling=SHORT)).text
        for how in ("ends", "hangs"):
            may_start.clear()
            break_engine(system, how, release)
            failed = await asyncio.gather(
                *(client.complete(f"the dog {i}", composition=BARE, sampling=SHORT) for i in range(3)),
                return_exceptions=True,
            )
            assert all(isinstance(error, Unavailable) for error in failed), failed
            assert (await anext(health)).status == NOT_SERVING
            may_start.set()
            assert (await anext(health)).status == SERVING
            assert (await client.complete("the dog", composition=BARE, sampling=SHORT)).text == want
        watch.cancel()
    release.set()
