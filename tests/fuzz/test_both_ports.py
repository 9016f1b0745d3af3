"""Anything at both public ports: JSON and messages that fit by halves, broken frames, random bytes.

The routes come from the page of the HTTP API and the calls from the service's descriptor, so that new ones are tried
without a word here. Store and index are real; models, whose answers cost time, are not (`test_public_port` has them).
Whatever is sent: no crash, no hang, and no error that would be ours.

A short run in `make test`; `make fuzz INPUTS=1000000` goes on until so many inputs have been answered.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest

from fuzz.odd_clients import Seen, fuzz_grpc, fuzz_http
from support.gateway_world import BASE
from support.real_door import RealDoor
from support.tenant_world import upload

INPUTS = int(os.environ.get("FUZZ_INPUTS", "0")) or 4000
SEED = int(os.environ.get("FUZZ_SEED", time.time_ns()))
LANES = 12
RSS_GROWTH = 400 * 2**20


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[RealDoor]:
    door = RealDoor(tmp_path)
    door.open_both(server={"idle_s": 2.0}, http={"max_connections": 64})
    try:
        await door.start_neighbours()
        await door.start_gateway()
        for number, name in enumerate(("one", "two")):
            async with grpc.aio.insecure_channel(door.grpc_address) as channel:
                call = channel.stream_unary("/ramole.v1.Gateway/UploadAdapter")
                await call(iter([part.SerializeToString() for part in upload(name, number)]), timeout=30)
        yield door
    finally:
        await door.stop()


async def test_nothing_that_is_sent_is_too_odd(door: RealDoor, capsys: pytest.CaptureFixture[str]) -> None:
    seen, process = Seen(), psutil.Process()
    before, told_at = process.memory_info().rss, time.monotonic()

    def is_done() -> bool:
        nonlocal told_at
        if time.monotonic() - told_at > 60:
            told_at = time.monotonic()
            with capsys.disabled():
                sys.stdout.write(f"\n{seen.total} inputs (FUZZ_SEED={SEED}): {dict(sorted(seen.counts.items()))}\n")
        return seen.total >= INPUTS

    async with asyncio.TaskGroup() as group:
        for lane in range(LANES):
            chance = random.Random(f"{SEED}-{lane}")
            group.create_task((fuzz_http if lane % 2 else fuzz_grpc)(door, chance, seen, is_done))
    assert process.memory_info().rss - before < RSS_GROWTH
    assert seen.counts["HTTP 200"] > INPUTS / 100, seen.counts
    assert seen.counts["gRPC OK"] > INPUTS / 100, seen.counts
    with capsys.disabled():
        sys.stdout.write(f"\n{seen.total} inputs (FUZZ_SEED={SEED}): {dict(sorted(seen.counts.items()))}\n")
    async with door.http() as http:
        answer = await http.post("/v1/completions", json={"model": BASE, "prompt": "a b n1"})
        assert answer.json()["choices"][0]["text"] == "abn1"
