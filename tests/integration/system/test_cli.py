"""The commands of users against the running system, as subprocesses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess


def ramole(system: ServerProcess, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("ramole"), *args],
        env=os.environ | {"RAMOLE_ADDRESS": system.address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_upload_list_route_generate_delete(system: ServerProcess, zoo: Zoo, tmp_path: Path) -> None:
    adapter = zoo.adapters[0]
    samples = tmp_path / "samples.txt"
    samples.write_text("\n".join(adapter.samples))
    tags = "--tag", "cli", "--tag", "first"
    done = ramole(system, "upload", adapter.path, "--samples", samples, "--name", "cli/mine", *tags)
    assert done.returncode == 0, done.stderr
    assert "cli/mine@1 is live" in done.stdout
    listed = json.loads(ramole(system, "adapters", "--json", *tags).stdout)
    assert [(row["adapter"], row["tags"]) for row in listed] == [("cli/mine@1", ["cli", "first"])]
    assert json.loads(ramole(system, "adapters", "--json", *tags, "--tag", "third").stdout) == []
    assert "cli/mine@1" in ramole(system, "adapters").stdout
    prompt = adapter.prompts[0]
    answer = ramole(system, "generate", prompt.prompt, "--adapter", "cli/mine", "--max-tokens", "24")
    assert answer.stdout.strip() == prompt.answer
    as_json = json.loads(ramole(system, "generate", prompt.prompt, "--adapter", "cli/mine", "--json").stdout)
    assert as_json["text"].strip() == prompt.answer
    assert as_json["adapters"][0]["adapter"] == "cli/mine@1"
    assert ramole(system, "route", prompt.prompt, "--k", "2").returncode == 0
    second = zoo.adapters[1]
    samples.write_text(json.dumps(second.samples))
    assert "cli/mine@2" in ramole(system, "upload", second.path, "--samples", samples, "--name", "cli/mine").stdout
    filtered = ramole(system, "adapters", "--json", "--tenant", "cli", "--prefix", "mi", "--latest").stdout
    assert [row["adapter"] for row in json.loads(filtered)] == ["cli/mine@2"]
    assert "cli/mine@3 is live" in ramole(system, "adapters", "rollback", "cli/mine@1").stdout
    shown = json.loads(ramole(system, "adapters", "show", "cli/mine").stdout)
    assert (shown["ref"]["version"], shown["source"], shown["samples"]) == (3, "cli/mine@1", list(adapter.samples))
    answer = ramole(system, "generate", prompt.prompt, "--adapter", "cli/mine", "--max-tokens", "24")
    assert answer.stdout.strip() == prompt.answer
    assert ramole(system, "adapters", "download", "cli/mine", tmp_path / "got").returncode == 0
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "got" / file).read_bytes() == (adapter.path / file).read_bytes()
    deleted = ramole(system, "adapters", "delete", "cli/mine@2", "--comment", "a mistake")
    assert deleted.stdout == "cli/mine@2 is deleted\n"
    history = json.loads(ramole(system, "adapters", "history", "cli/mine", "--json").stdout)
    assert [(v["ref"]["version"], v["removal"], v["comment"]) for v in history] == [
        (3, "", ""),
        (2, "deleted", "a mistake"),
        (1, "", ""),
    ]
    assert "cli/mine@2" in ramole(system, "adapters", "history", "cli/mine").stdout
    assert "cli/mine@1 is deleted" in ramole(system, "adapters", "delete", "cli/mine").stdout
    gone = ramole(system, "generate", prompt.prompt, "--adapter", "cli/mine")
    assert gone.returncode == 1
    assert "cli/mine" in gone.stderr


def test_errors_are_one_line_and_an_exit_code(system: ServerProcess, tmp_path: Path) -> None:
    for args in (["generate", ""], ["generate", "x", "--k", "9"], ["generate", "x", "--preset", "best"]):
        done = ramole(system, *args)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
    nobody = subprocess.run(
        [Path(sys.executable).with_name("ramole"), "generate", "x", "--address", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr
