"""`ramole bench chaos` on a system of one's own, which is broken meanwhile."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ramole.client import SyncRamoleClient
from ramole.gateway.keys import KeyFile
from ramole.lab.chaos.traffic import Tenant
from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess
from support.traffic_tasks import two_tenants

pytestmark = pytest.mark.fault


@pytest.fixture
def tenants(tmp_path: Path, zoo: Zoo) -> tuple[Tenant, ...]:
    (tmp_path / "data").mkdir()
    return two_tenants(zoo, KeyFile(tmp_path / "data" / "keys.json"))


@pytest.fixture
def server(tmp_path: Path, tenants: tuple[Tenant, ...]) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "data", "--local")
    yield server.wait_until_serving()
    assert not server.stop(), "processes outlived the server"


@pytest.fixture
def plan(tmp_path: Path, tenants: tuple[Tenant, ...]) -> Path:
    described = []
    for tenant in tenants:
        (tmp_path / f"{tenant.name}.key").write_text(tenant.key)
        adapters = []
        for task in tenant.tasks:
            (tmp_path / f"{task.name}.json").write_text(json.dumps(task.samples))
            samples = f"{task.name}.json"
            adapters.append({"name": task.name, "folder": str(task.folder), "samples": samples})
        described.append({"name": tenant.name, "key_file": f"{tenant.name}.key", "adapters": adapters})
    path = tmp_path / "chaos.yaml"
    path.write_text(yaml.safe_dump({"tenants": described}))
    return path


def bench(address: str, plan: Path, *options: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("ramole")), "bench", "chaos", "--plan", str(plan)]
    return subprocess.Popen(
        [*command, "--address", address, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str], code: int) -> str:
    out, told = process.communicate(timeout=300)
    assert process.returncode == code, out + told
    return out


def test_a_system_that_is_well_and_one_whose_answers_change(
    server: ServerProcess, tenants: tuple[Tenant, ...], plan: Path
) -> None:
    told: dict[str, Any] = json.loads(ended(bench(server.address, plan, "--seconds", "4", "--json"), 0))
    assert told["requests"] > 0
    assert (told["complaints"], told["lost"]) == ([], 0)
    assert {code for row in told["by_second"] for code in row["requests"]} == {"OK"}

    table = ended(bench(server.address, plan, "--seconds", "2", "--no-changes"), 0)
    assert "0 complaints" in table
    assert " OK" in table

    first, second = tenants[0].tasks[:2]
    broken = bench(server.address, plan, "--seconds", "8", "--no-changes")
    contents = itertools.cycle((second, first))  # under one name: what it answers alone is not what it answers later
    with SyncRamoleClient(server.address, key=tenants[0].key, timeout_s=60) as client:
        while broken.poll() is None:
            client.upload(next(contents).folder, first.samples, adapter=first.name)
    assert "alone it is" in ended(broken, 1)
