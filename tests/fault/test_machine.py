"""A machine whose disk is full or lies, and clients that send anything, under a system that serves.

Its store is remote, and its executor keeps little, so that adapters come from the cache on disk again and again.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fuzz.odd_clients import Seen, fuzz_grpc, fuzz_http
from ramole.gateway.keys import KeyFile, Role
from ramole.lab.chaos.traffic import Tenant
from ramole.lora.files import TENSORS_FILE
from ramole.zoo.catalog import Zoo
from support.fault_report import Row
from support.fault_run import under_traffic
from support.full_disk import disk_of, fill
from support.s3_server import new_bucket, s3_options, s3_server
from support.server_process import ServerProcess, free_port
from support.traffic_tasks import two_tenants

pytestmark = pytest.mark.fault

DISK_BYTES = 256 * 2**20
RECOVERY_S = 15.0
INPUTS = 10_000
LANES = 6


@dataclass
class World:
    """A system on a small disk of its own; the odd clients are of a third tenant."""

    server: ServerProcess
    tenants: tuple[Tenant, ...]
    odd_key: str
    disk: Path
    http_port: int

    @property
    def grpc_address(self) -> str:
        return self.server.address

    def metric(self, name: str) -> float:
        """The sum over all of its labels."""
        page = httpx.get(f"http://127.0.0.1:{self.server.metrics_port}/metrics", timeout=30).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, zoo: Zoo) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("machine")
    with disk_of(folder / "disk", DISK_BYTES) as disk, s3_server() as s3:
        data = disk / "data"
        data.mkdir()
        keys = KeyFile(data / "keys.json")
        tenants, port = two_tenants(zoo, keys), free_port()
        _, odd_key = keys.add("eve", "eve", Role.PUBLISHER)
        server = ServerProcess(
            data,
            "--local",
            env={
                "RAMOLE_ADAPTERS__STORE_URI": new_bucket(s3),
                "RAMOLE_ADAPTERS__STORE_OPTIONS": json.dumps(s3_options(s3)),
                "RAMOLE_CACHE__HOST_BYTES": "0",
                "RAMOLE_EXECUTOR__NUM_SLOTS": "6",
                "RAMOLE_GATEWAY__HTTP__PORT": str(port),
                "RAMOLE_GATEWAY__SHOW_INTERFACE": "true",
            },
            log_folder=folder,
        )
        server.wait_until_serving()
        yield World(server, tenants, odd_key, disk, port)
        assert not server.stop(), "processes outlived the server"


async def test_a_full_disk(world: World, add_row: Callable[[Row], None]) -> None:
    async with under_traffic(world.server.address, world.tenants) as run:
        run.strikes()
        await asyncio.to_thread(fill, world.disk)
        await run.has_lasted()
        (world.disk / "filler").unlink()
        run.heals()
        await run.is_well()
    add_row(run.row("a full disk", f"requests: none fails; {RECOVERY_S:.0f} s after"))
    assert run.traffic.history.failed(run.struck_s) == []
    assert "LIMIT_EXCEEDED" in {one.code for one in run.changed if one.action == "upload"}
    assert run.recovery_s <= RECOVERY_S


def spoil(file: Path, chance: random.Random) -> None:
    """In place, as a disk does it: some bytes are others, the end is missing, or all is."""
    data = bytearray(file.read_bytes())
    match chance.randrange(4):
        case 0:
            file.unlink()
        case 1:
            with file.open("r+b") as opened:
                opened.truncate(chance.randrange(len(data)) if data else 0)
        case _:
            with file.open("r+b") as opened:
                for _ in range(9):
                    opened.seek(chance.randrange(max(1, len(data))))
                    opened.write(chance.randbytes(1))


async def test_a_cache_on_a_disk_that_lies(world: World, add_row: Callable[[Row], None]) -> None:
    chance, cache = random.Random(15), world.disk / "data" / "cache"
    before = world.metric("ramole_tier_failures_total")

    async def spoil_on() -> None:
        while True:
            for file in cache.glob(f"[0-9a-f][0-9a-f]/*/{TENSORS_FILE}"):
                try:
                    spoil(file, chance)
                except FileNotFoundError:  # it was found out already
                    continue
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.02)

    async with under_traffic(world.server.address, world.tenants) as run:
        run.strikes()
        spoiling = asyncio.create_task(spoil_on())
        for _ in range(5):
            await run.has_lasted()
        spoiling.cancel()
        run.heals()
        await run.is_well()
    add_row(run.row("bytes of cached adapters are flipped", "none fails"))
    assert world.metric("ramole_tier_failures_total") > before, "no broken file was met"
    assert run.traffic.history.failed(run.struck_s) == []


async def test_clients_that_send_anything(world: World, add_row: Callable[[Row], None]) -> None:
    seen = Seen()
    async with under_traffic(world.server.address, world.tenants) as run:
        run.strikes()
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                chance, client = random.Random(f"15-{lane}"), (fuzz_http if lane % 2 else fuzz_grpc)
                group.create_task(client(world, chance, seen, lambda: seen.total >= INPUTS, world.odd_key))
        run.heals()
        await run.is_well()
    add_row(run.row(f"{INPUTS} malformed messages", "none fails"))
    assert world.server.process.poll() is None
    assert run.traffic.history.failed(run.struck_s) == []
    assert seen.counts["HTTP 200"] > 0
    assert seen.counts["gRPC OK"] > 0
