"""What the way to the engine and back costs: answers of one token, named and routed, beside the engine itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from statistics import median
from typing import Any

from ramole.core.composition import PRESETS
from ramole.core.sampling import Sampling
from ramole.core.settings import ExecutorSettings
from ramole.executor.offline import OfflineEngine
from ramole.lab.bench.serve.options import OverheadCase
from ramole.lab.bench.serve.world import OWNER, World
from ramole.zoo.catalog import load_zoo

ENGINE, NAMED, ROUTED = "engine", "named", "routed"

_ONE = Sampling(max_tokens=1)
_ALONE = PRESETS["selection"]


async def run_overhead_case(case: OverheadCase, world: World) -> dict[str, Any]:
    """Measures one case: every request uses one adapter, whoever finds it, and nobody else is there."""
    folders = {adapter.name: adapter.path for adapter in world.adapters}
    with OfflineEngine(load_zoo().base_path, folders, settings=ExecutorSettings(router="")) as engine:
        times = await _measure(case, world, engine)
    named, routed = (
        [1000 * (door - bare) for door, bare in zip(times[name], times[ENGINE], strict=True)]
        for name in (NAMED, ROUTED)
    )
    return {
        "name": "overhead",
        "kind": "overhead",
        "case": asdict(case),
        "p50_ms": {name: 1000 * median(seconds) for name, seconds in times.items()},
        "overhead_ms_p50_named": median(named),
        "overhead_ms_p50_routed": median(routed),
        "times": times,
    }


async def _measure(case: OverheadCase, world: World, engine: OfflineEngine) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {ENGINE: [], NAMED: [], ROUTED: []}
    async with world.client() as client:
        for i in range(-len(world.adapters), case.rounds):
            adapter = world.adapters[i % len(world.adapters)]
            prompt = adapter.prompts[i % len(adapter.prompts)].prompt
            found = (await client.route(prompt, k=1)).adapters[0].ref.name

            async def bare(prompt: str = prompt, found: str = found) -> None:
                engine.generate([prompt], [[found]], composition=_ALONE, sampling=_ONE)

            async def named(prompt: str = prompt, found: str = found) -> None:
                await client.complete(prompt, adapters=[f"{OWNER}/{found}"], composition=_ALONE, sampling=_ONE)

            async def routed(prompt: str = prompt) -> None:
                await client.complete(prompt, composition=_ALONE, sampling=_ONE)

            contestants: dict[str, Callable[[], Awaitable[None]]] = {ENGINE: bare, NAMED: named, ROUTED: routed}
            turn = i % len(contestants)
            names = list(contestants)
            for name in names[turn:] + names[:turn]:
                start_s = time.perf_counter()
                await contestants[name]()
                if i >= 0:  # what comes before brings the adapters to the device
                    times[name].append(time.perf_counter() - start_s)
    return times
