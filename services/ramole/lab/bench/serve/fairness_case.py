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

ALONE, CROWDED, UNDIVIDED = "alone", "beside another tenant's crowd", "beside a crowd of its own"


async def run_fairness_case(case: FairnessCase, world: World) -> dict[str, Any]:
    """Measures one case: the ratio of the small tenant's median latencies within each round, and their median.

    The same crowd as a part of the small tenant is served in order of arrival: what a queue without tenants does.
    """
    p50s = await _run(case, world)
    ratios = {
        name: [crowded / alone for alone, crowded in zip(p50s[ALONE], p50s[name], strict=True)]
        for name in (CROWDED, UNDIVIDED)
    }
    return {
        "name": "fairness",
        "kind": "fairness",
        "case": asdict(case),
        "p50_ms": {name: 1000 * median(values) for name, values in p50s.items()},
        "fairness_ratio": median(ratios[CROWDED]),
        "ratio_without_tenants": median(ratios[UNDIVIDED]),
        "ratios": ratios,
    }


async def _run(case: FairnessCase, world: World) -> dict[str, list[float]]:
    p50s: dict[str, list[float]] = {ALONE: [], CROWDED: [], UNDIVIDED: []}
    async with AsyncExitStack() as stack:
        small, crowd, own_crowd = [
            await stack.enter_async_context(world.client(tenant)) for tenant in (OWNER, CROWD, OWNER)
        ]
        requests = _Requests(case, world)
        await requests.some(small, case.clients, case.num_requests)  # brings the adapters to the device
        crowds = {ALONE: None, CROWDED: crowd, UNDIVIDED: own_crowd}
        for i in range(case.rounds):
            names = list(crowds)
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                async with requests.forever(crowds[name], case.times * case.clients):
                    p50s[name].append(median(await requests.some(small, case.clients, case.num_requests)))
    return p50s


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
    async def forever(self, client: RamoleClient | None, concurrency: int) -> AsyncIterator[None]:
        """Inside the block `concurrency` clients ask without a pause; it begins once a part of them has an answer."""
        if client is None:
            yield
            return
        num_answers = 0
        is_busy = asyncio.Event()

        async def work() -> None:
            nonlocal num_answers
            while True:
                await self.one(client)
                num_answers += 1
                if num_answers >= concurrency // 4:
                    is_busy.set()

        tasks = [asyncio.create_task(work()) for _ in range(concurrency)]
        try:
            await asyncio.wait([asyncio.create_task(is_busy.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
