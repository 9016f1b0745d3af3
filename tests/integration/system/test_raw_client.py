"""The protos are the whole contract: a foreign process with stubs of its own can upload, list, generate and delete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python stubs, made from protos/ as any user of another code base would."""
    out = tmp_path_factory.mktemp("stubs")
    protos = ROOT / "protos"
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={out}"]
    subprocess.run([*command, f"--grpc_python_out={out}", *files], check=True, timeout=60)
    for package in ("ramole", "ramole/v1"):
        (out / package / "__init__.py").touch()
    return out


def test_a_client_made_from_the_protos_alone_uploads_lists_generates_and_deletes(
    system: ServerProcess, zoo: Zoo, stubs: Path
) -> None:
    adapter, name = zoo.adapters[0], "from-the-protos"
    script = Path(__file__).with_name("raw_client.py")
    arguments = [str(stubs), system.address, str(adapter.path), adapter.prompts[0].prompt, name]
    done = subprocess.run(
        [sys.executable, str(script), *arguments, json.dumps(adapter.samples)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["version"] >= 1
    assert said["modules"] > 0
    assert name in said["listed"]
    assert said["events"][0] == "routing"
    assert said["events"][-1] == "usage"
    assert set(said["events"][1:-1]) == {"chunk"}
    assert said["used"] == [name]
    assert said["text"].strip()
    assert said["refusal"].startswith("INVALID_ARGUMENT prompt: ")
