"""Latency below capacity: random arrivals at a share of what the server can do, by the product's default way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count, cycle
from typing import Any

import numpy as np

from ramole.client import RamoleClient
from ramole.core.sampling import Sampling
from ramole.lab.bench.serve.options import LoadCase
from ramole.lab.bench.serve.world import World


async def run_load_case(case: LoadCase, world: World) -> dict[str, Any]:
    """Measures one case: the capacity by a closed loop, then the latencies of an open one."""
    prompts = cycle([example.prompt for adapter in world.adapters for example in adapter.prompts])
    async with world.client() as client:
        await _closed(client, prompts, case, case.concurrency)  # brings the adapters to the device
        seconds = await _closed(client, prompts, case, case.num_closed)
        capacity = case.num_closed / seconds
        rate = case.share * capacity
        latencies = await _open(client, prompts, case, rate)
    p50, p99 = np.percentile(latencies, [50, 99])
    return {
        "name": "load",
        "kind": "load",
        "case": asdict(case),
        "capacity_requests_per_s": capacity,
        "offered_requests_per_s": rate,
        "p50_ms": 1000 * float(p50),
        "p99_ms": 1000 * float(p99),
        "latencies_s": latencies,
    }


async def _closed(client: RamoleClient, prompts: Iterator[str], case: LoadCase, num_requests: int) -> float:
    """Seconds for all, `concurrency` at a time."""
    numbers = count()

    async def work() -> None:
        while next(numbers) < num_requests:
            await client.complete(next(prompts), sampling=Sampling(max_tokens=case.new_tokens))

    start_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(case.concurrency)))
    return time.perf_counter() - start_s


async def _open(client: RamoleClient, prompts: Iterator[str], case: LoadCase, rate: float) -> list[float]:
    """Latencies, each from the moment that its request was due: who falls behind hides nothing."""
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, case.num_open)).tolist()
    start_s = time.perf_counter()

    async def one(due_s: float, prompt: str) -> float:
        await asyncio.sleep(max(0.0, start_s + due_s - time.perf_counter()))
        await client.complete(prompt, sampling=Sampling(max_tokens=case.new_tokens))
        return time.perf_counter() - start_s - due_s

    return await asyncio.gather(*(one(due_s, next(prompts)) for due_s in due))
