"""Serve replaces an executor whose engine is stuck in a step: here one that is longer than the setting allows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.client.client import RamoleClient
from ramole.core.composition import Composition, Weighting
from ramole.core.errors import Unavailable
from ramole.core.sampling import Sampling
from support.server_process import ServerProcess

BARE = Composition(Weighting.UNIFORM, k=0)
LONG = "the dog sees the wolf and " * 9


@pytest.mark.slow
async def test_serve_replaces_an_executor_that_is_stuck(tmp_path: Path) -> None:
    # Seldom more than a few prompts share a step; 64 long ones in one step are seconds of work.
    limits = {"MAX_STEP_S": "0.2", "MAX_ROWS": "64", "TOKEN_BUDGET": "16384"}
    server = ServerProcess(tmp_path / "data", env={f"RAMOLE_EXECUTOR__{key}": value for key, value in limits.items()})
    await asyncio.to_thread(server.wait_until_serving)
    async with (
        RamoleClient(server.address, retries=0) as client,
        grpc.aio.insecure_channel(server.address) as channel,
        asyncio.timeout(300),
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        health = aiter(watch)
        assert (await anext(health)).status == health_pb2.HealthCheckResponse.SERVING
        want = (await client.complete("the dog", composition=BARE, sampling=Sampling(max_tokens=4))).text
        calls = (client.complete(f"{i} {LONG}", composition=BARE, sampling=Sampling(max_tokens=4)) for i in range(400))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert failed
        assert all(isinstance(error, Unavailable) for error in failed), failed[:3]
        assert (await anext(health)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await anext(health)).status == health_pb2.HealthCheckResponse.SERVING
        answer = await client.complete("the dog", composition=BARE, sampling=Sampling(max_tokens=4))
        assert answer.text == want
        watch.cancel()
    assert "stuck" in server.log
    assert not server.stop(), "processes outlived the server"
