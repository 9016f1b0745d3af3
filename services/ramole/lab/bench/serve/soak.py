"""`ramole bench serve --soak`: what grows under steady load, with uploads and clients that go away."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import linregress

from ramole.client import RamoleClient
from ramole.core.errors import RamoleError
from ramole.core.sampling import Sampling
from ramole.lab.bench.serve.options import SoakCase
from ramole.lab.bench.serve.run import Progress, setup
from ramole.lab.bench.serve.world import CROWD, OWNER, World, start_world
from ramole.zoo.catalog import load_zoo

_PERIOD_S = 2.0
_MINUTE_S = 60.0

FLAT = ("rss_mib", "handles", "threads")
"""Of the server's process: their slopes are reported."""
EMPTY = ("ramole_requests_running", "ramole_queue_length", "ramole_slots_pinned", "ramole_requests_in_flight")
"""Of the server's metrics: nothing of them is left when the last client has gone."""


@dataclass(slots=True)
class Seen:
    """What a run has brought.

    Attributes:
        samples: of the server's process, with the time ``s``. Times are seconds from the start.
        latencies: start and length of each whole answer.
        errors: how often each reason came.
    """

    samples: list[dict[str, float]] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    num_cancelled: int = 0
    num_uploads: int = 0


def run_soak(case: SoakCase, *, progress: Progress) -> dict[str, Any]:
    """Runs it on a server of its own.

    Returns:
        {"setup", "case", "samples", "summary"}, ready for JSON.
    """
    load_before = os.getloadavg()
    with TemporaryDirectory(prefix="ramole-soak-") as name:
        seen, left = asyncio.run(_run(case, Path(name), progress))
    return {
        "setup": setup() | {"load_before": load_before, "load_after": os.getloadavg()},
        "case": asdict(case),
        "samples": seen.samples,
        "errors": seen.errors,
        "summary": summary_of(case, seen) | {name.replace("ramole_", "left_"): value for name, value in left.items()},
    }


async def _run(case: SoakCase, folder: Path, progress: Progress) -> tuple[Seen, dict[str, float]]:
    port = _free_port()
    progress("starting ramole and uploading")
    world = await start_world(folder, load_zoo().adapters[: case.num_adapters], metrics_port=port)
    seen = Seen()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as metrics:
            async with world.client() as owner, world.client(CROWD) as crowd:
                start_s = time.monotonic()
                numbers = count()
                tasks = [
                    *(
                        _ask_on(case, world, client, seen, start_s, numbers)
                        for client in (owner, crowd)
                        for _ in range(case.clients)
                    ),
                    _upload_on(case, world, owner, seen),
                ]
                running = [asyncio.create_task(task) for task in tasks]
                try:
                    while (elapsed_s := time.monotonic() - start_s) < case.minutes * _MINUTE_S:
                        progress(f"{elapsed_s / _MINUTE_S:.0f} of {case.minutes:g} minutes")
                        await asyncio.sleep(_PERIOD_S)
                        if failed := [task for task in running if task.done()]:
                            failed[0].result()
                        seen.samples.append({"s": time.monotonic() - start_s, **world.server.usage()})
                finally:
                    for task in running:
                        task.cancel()
                    await asyncio.gather(*running, return_exceptions=True)
            progress("what is left")
            left = await _when_idle(metrics)
    finally:
        world.server.stop()
    return seen, left


async def _ask_on(
    case: SoakCase, world: World, client: RamoleClient, seen: Seen, start_s: float, numbers: Iterator[int]
) -> None:
    chance = np.random.default_rng(next(numbers))
    places = np.arange(1, len(world.adapters) + 1) ** -case.zipf
    while True:
        adapter = world.adapters[int(chance.choice(len(places), p=places / places.sum()))]
        prompt = adapter.prompts[int(chance.integers(len(adapter.prompts)))].prompt
        names = [f"{OWNER}/{adapter.name}"] if chance.random() < case.named else []
        leaves = chance.random() < case.cancels
        began_s = time.monotonic()
        try:
            events = client.generate(prompt, adapters=names, sampling=Sampling(max_tokens=case.new_tokens))
            async with aclosing(events):
                async for _ in events:
                    if leaves:
                        break
        except RamoleError as error:
            seen.errors[error.reason()] = seen.errors.get(error.reason(), 0) + 1
            continue
        if leaves:
            seen.num_cancelled += 1
        else:
            seen.latencies.append((began_s - start_s, time.monotonic() - began_s))


async def _upload_on(case: SoakCase, world: World, client: RamoleClient, seen: Seen) -> None:
    """As many are there at any time, and each is another one."""
    for number in count():
        adapter = world.adapters[number % len(world.adapters)]
        await client.upload(adapter.path, adapter.samples, adapter=f"churn-{number}")
        seen.num_uploads += 1
        if number >= case.num_churning:
            with suppress(RamoleError):
                await client.delete(f"churn-{number - case.num_churning}")
        await asyncio.sleep(case.upload_pause_s)


async def _when_idle(metrics: httpx.AsyncClient) -> dict[str, float]:
    """The sums of `EMPTY`, once they are 0, or after a while."""
    for _ in range(50):
        text = (await metrics.get("/metrics")).text
        found = dict.fromkeys(EMPTY, 0.0)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in found:
                    found[sample.name] += sample.value
        if not any(found.values()):
            break
        await asyncio.sleep(0.2)
    return found


def summary_of(case: SoakCase, seen: Seen) -> dict[str, Any]:
    """Slopes after the warm-up by least squares, with their standard errors, and the ends' tails of latency."""
    times = np.array([sample["s"] for sample in seen.samples]) / _MINUTE_S
    warm = times >= case.warm_up * case.minutes
    summary: dict[str, Any] = {}
    for name in FLAT:
        values = np.array([sample[name] for sample in seen.samples])
        fit = linregress(times[warm], values[warm])
        summary[f"{name}_per_min"] = float(fit.slope)
        summary[f"{name}_per_min_stderr"] = float(fit.stderr)
    began, took = np.array(seen.latencies).T
    end_s = case.minutes * _MINUTE_S
    first_s = case.warm_up * end_s
    first = took[(began >= first_s) & (began < first_s + _MINUTE_S)]
    last = took[(began >= end_s - _MINUTE_S) & (began < end_s)]
    return summary | {
        "p99_ms_first_minute": 1000 * float(np.percentile(first, 99)),
        "p99_ms_last_minute": 1000 * float(np.percentile(last, 99)),
        "p99_last_vs_first": float(np.percentile(last, 99) / np.percentile(first, 99)),
        "requests": len(took),
        "cancelled": seen.num_cancelled,
        "uploads": seen.num_uploads,
        "failed": sum(seen.errors.values()),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
