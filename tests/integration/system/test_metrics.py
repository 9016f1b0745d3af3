"""Prometheus reads the same series from a system on Ray and from one in a single process."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path

from ramole.client.client import RamoleClient
from ramole.core.settings import MetricsSettings
from ramole.zoo.catalog import Zoo
from support.local_system import local_system
from support.server_process import ServerProcess, free_port

Key = tuple[str, tuple[tuple[str, str], ...]]

_LINE = re.compile(r"^(?:ray_)?(ramole_\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_OURS = {"service", "tier", "result", "method", "code", "le"}
DEVICE_HITS: Key = ("ramole_tier_requests_total", (("result", "hit"), ("service", "executor"), ("tier", "device")))
STORE_LOADS: Key = ("ramole_tier_load_duration_seconds_count", (("service", "executor"), ("tier", "store")))
ANSWERS: Key = (
    "ramole_requests_total",
    (("code", "OK"), ("method", "/ramole.v1.Gateway/Complete"), ("service", "gateway")),
)


def series(port: int) -> dict[Key, float]:
    """Our series, without the labels that Ray adds; the values of several processes summed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[Key, float] = {}
    for match in filter(None, map(_LINE.match, lines)):
        labels = tuple(sorted((k, v) for k, v in _LABEL.findall(match[2]) if k in _OURS))
        found[match[1], labels] = found.get((match[1], labels), 0.0) + float(match[3])
    return found


async def series_after_use(address: str, metrics_port: int, zoo: Zoo) -> set[Key]:
    """Uses one adapter twice and waits until the metrics say so. Returns all series, without values."""
    adapter = zoo.adapters[0]
    before = await asyncio.to_thread(series, metrics_port)
    async with RamoleClient(address) as client:
        await client.upload(adapter.path, adapter.samples, adapter="metrics/measured")
        for _ in range(2):
            await client.complete(adapter.prompts[0].prompt, adapters=["metrics/measured"])
        await client.delete("metrics/measured")
    async with asyncio.timeout(60):
        while True:
            found = await asyncio.to_thread(series, metrics_port)
            if (
                found.get(DEVICE_HITS, 0) > before.get(DEVICE_HITS, 0)
                and found.get(STORE_LOADS, 0) >= 1
                and found.get(ANSWERS, 0) >= before.get(ANSWERS, 0) + 2
            ):
                return set(found)
            await asyncio.sleep(0.2)  # Ray's agent collects every few seconds


async def test_ray_and_a_single_process_tell_the_same(system: ServerProcess, tmp_path: Path, zoo: Zoo) -> None:
    on_ray = await series_after_use(system.address, system.metrics_port, zoo)
    metrics = MetricsSettings(port=free_port())
    async with local_system(tmp_path, metrics=metrics) as alone:
        local = await series_after_use(alone.address, metrics.port, zoo)
    # Other tests have used the system on Ray for more.
    assert {name for name, _ in local} <= {name for name, _ in on_ray}
    tiers = {key for key in local if key[0].startswith("ramole_tier")}
    assert len(tiers) > 30
    assert tiers <= on_ray
