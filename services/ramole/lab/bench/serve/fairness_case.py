"""How much longer a small tenant waits while another one has many times its load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from itertools import count
from statistics import median
from typing import Any

from ramole.client import RamoleClient
from ramole.core.composition import PRESETS
from ramole.core.sampling import Sampling
from ramole.lab.bench.serve.options import FairnessCase
from ramole.lab.bench.serve.world import CROWD, OWNER, World


def run_fairness_case(case: FairnessCase, world: World) -> dict[str, Any]:
    """Measures one case: the ratio of the small tenant's median latencies within each round, and their median."""
    without, beside, served = asyncio.run(_run(case, world))
    ratios = [median(crowded) / median(alone) for alone, crowded in zip(without, beside, strict=True)]
    return {
        "name": "fairness",
        "kind": "fairness",
        "case": asdict(case),
        "p50_ms_without": 1000 * median(median(one) for one in without),
        "p50_ms_beside": 1000 * median(median(one) for one in beside),
        "fairness_ratio": median(ratios),
        "ratios": ratios,
        "crowd_requests": served,
    }


async def _run(case: FairnessCase, world: World) -> tuple[list[list[float]], list[list[float]], int]:
    without: list[list[float]] = []
    beside: list[list[float]] = []
    served = 0
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(world.client(OWNER))
        crowd = await stack.enter_async_context(world.client(CROWD))
        requests = _Requests(case, world)
        await requests.some(small, case.clients, case.num_requests)  # brings the adapters to the device
        for _ in range(case.rounds):
            without.append(await requests.some(small, case.clients, case.num_requests))
            async with requests.forever(crowd, case.times * case.clients) as latencies:
                beside.append(await requests.some(small, case.clients, case.num_requests))
                served += len(latencies)
    return without, beside, served


class _Requests:
    """Answers of a fixed length, each by one named adapter in turn."""

    def __init__(self, case: FairnessCase, world: World) -> None:
        self._case = case
        self._world = world
        self._numbers = count()

    async def one(self, client: RamoleClient) -> float:
        """Seconds."""
        number = next(self._numbers)
        adapter = self._world.adapters[number % len(self._world.adapters)]
        prompt = adapter.prompts[number % len(adapter.prompts)].prompt
        start_s = time.perf_counter()
        await client.complete(
            prompt,
            adapters=[f"{OWNER}/{adapter.name}"],
            composition=PRESETS["selection"],
            sampling=Sampling(max_tokens=self._case.new_tokens),
        )
        return time.perf_counter() - start_s

    async def some(self, client: RamoleClient, concurrency: int, num_requests: int) -> list[float]:
        """Latencies of all, `concurrency` at a time."""
        numbers = count()
        latencies: list[float] = []

        async def work() -> None:
            while next(numbers) < num_requests:
                latencies.append(await self.one(client))

        await asyncio.gather(*(work() for _ in range(concurrency)))
        return latencies

    @asynccontextmanager
    async def forever(self, client: RamoleClient, concurrency: int) -> AsyncIterator[list[float]]:
        """Inside the block `concurrency` clients ask without a pause; it begins once as many answers are there."""
        latencies: list[float] = []
        is_busy = asyncio.Event()

        async def work() -> None:
            while True:
                latencies.append(await self.one(client))
                if len(latencies) >= concurrency:
                    is_busy.set()

        tasks = [asyncio.create_task(work()) for _ in range(concurrency)]
        try:
            await asyncio.wait([asyncio.create_task(is_busy.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
            yield latencies
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
