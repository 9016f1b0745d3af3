"""What commands do with their options and say to a script, in this process, against a gateway among neighbours."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ramole.cli import app
from ramole.cli.status import rates
from ramole.client import SyncRamoleClient
from ramole.core.composition import PRESETS
from ramole.core.errors import DeadlineExceeded
from ramole.transport.values import composition_from_pb
from support.world_thread import WorldThread, world_thread


@pytest.fixture(scope="module")
def shared() -> Iterator[WorldThread]:
    with world_thread() as thread:
        yield thread


@pytest.fixture
def world(shared: WorldThread, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WorldThread:
    monkeypatch.setenv("RAMOLE_ADDRESS", shared.address)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RAMOLE_DATA_DIR", str(tmp_path / "data"))
    shared.world.executor.requests.clear()
    shared.world.retrieval.searches.clear()
    return shared


def ramole(*args: str | Path, typed: str = "", code: int = 0) -> str:
    """Stdout of a command that ends with `code`; stderr of one that fails."""
    done = CliRunner().invoke(app, [str(arg) for arg in args], input=typed)
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def of_json(*args: str | Path) -> Any:
    """What a command prints with --json, and nothing else."""
    return json.loads(ramole(*args, "--json"))


def test_an_answer_in_parts_says_who_wrote_what(world: WorldThread) -> None:
    parts = "generate", "one; two three", "--reroute-at", ";", "--max-parts", "3"
    why = ramole(*parts, "--why").splitlines()
    assert why[0] == "one;twothree"
    assert [line for line in why if line.startswith("part")] == ["part 1: 'one;'", "part 2: 'twothree'"]
    assert [line.split("@")[0].strip("│ ") for line in why if "@" in line] == ["default/a", "default/b"]
    found = of_json(*parts)
    assert [part["text"] for part in found["parts"]] == ["one;", "twothree"]
    assert [part["end"] for part in found["parts"]] == ["separator", None]
    assert found["parts"][1]["adapters"][0]["adapter"] == found["adapters"][1]["adapter"] == "default/b@1"
    assert [list(request.part_ends) for request in world.world.executor.requests[:1]] == [[";"]]
    assert "parts" not in of_json("generate", "one; two three")
    at_end = of_json("generate", "one. two", "--reroute-at-end")
    assert [part["end"] for part in at_end["parts"]] == ["adapters", None]
    for wrong, field in (
        (["--max-parts", "3"], "--max-parts"),
        (["--reroute-at", ""], "composition.separators"),
        (["--reroute-at-end", "--max-parts", "1"], "composition.max_parts"),
        (["--reroute-at-end", "--adapter", "a"], "composition.reroute"),
        (["--reroute-at-end", "--k", "0"], "composition.reroute"),
    ):
        assert ramole("generate", "x", *wrong, code=1).startswith(f"error: {field}:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (made / name).write_text("{}")
    return made


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.txt"
    path.write_text("one\ntwo\n")
    return path


def test_what_changes_the_repository_tells_scripts_what_it_did(world: WorldThread, folder: Path, samples: Path) -> None:
    new = of_json("upload", folder, "--samples", samples, "--name", "json")
    assert (new["adapter"], new["is_created"]) == ("default/json@1", True)
    of_json("upload", folder, "--samples", samples, "--name", "json")
    again = of_json("adapters", "rollback", "json@1")
    assert (again["adapter"], again["digest"], again["is_created"]) == ("default/json@3", new["digest"], True)
    assert new in [row | {"is_created": True} for row in of_json("adapters", "--prefix", "json")]
    gone = of_json("adapters", "delete", "json@2")
    assert [row["adapter"] for row in gone["removed"]] == ["default/json@2"]
    gone = of_json("adapters", "revoke", "json")
    assert gone["aborted"] == 2
    assert [row["adapter"] for row in gone["removed"]] == ["default/json@1", "default/json@3"]


def test_keys_and_logins_tell_scripts_what_they_did(world: WorldThread, tmp_path: Path) -> None:
    made = of_json("keys", "add", "ann", "--tenant", "acme")
    assert [key["id"] for key in of_json("keys", "list")] == [made["id"]]
    assert of_json("keys", "remove", made["id"]) == {name: made[name] for name in ("id", "name", "tenant", "role")}
    file = str(tmp_path / "config" / "ramole.toml")
    known = of_json("login", "--address", world.address)
    assert known | {"name": ""} == of_json("whoami") | {"file": file, "name": ""}, "nameless: each call has its port"
    assert of_json("logout") == {"file": file, "is_removed": True}
    assert of_json("logout") == {"file": file, "is_removed": False}


def test_an_adapter_that_is_only_named_needs_no_samples(world: WorldThread, folder: Path, samples: Path) -> None:
    ramole("upload", folder, "--named-only", "--name", "quiet")
    header = world.world.adapters.headers[-1]
    assert (header.adapter, header.is_named_only, list(header.samples)) == ("quiet", True, [])
    for args in ((), ("--named-only", "--samples", samples)):
        assert ramole("upload", folder, *args, code=1).startswith("error: --samples: ")


def test_tags_reach_the_server(world: WorldThread, folder: Path, samples: Path) -> None:
    ramole("upload", folder, "--samples", samples, "--tag", "de", "--tag", "reviews")
    assert list(world.world.adapters.headers[-1].tags) == ["de", "reviews"]
    ramole("generate", "x", "--tag", "de", "--tag", "reviews")
    ramole("route", "x", "--tag", "de")
    ramole("chat", "--tag", "de", typed="x\n/use a\ny\n/auto\nz\n")
    assert [list(search.tags) for search in world.world.retrieval.searches] == [["de", "reviews"], *[["de"]] * 3]
    asked = world.world.executor.requests
    assert len(asked) == 4, "the turn with /use retrieved nothing, and was answered"
    assert ramole("chat", "--tag", "de", "--adapter", "a", code=1).startswith("error: --tag: ")


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_both_ways_to_ask_take_the_same_options(world: WorldThread, command: str) -> None:
    def asked(*options: str) -> Any:
        words = ("generate", "x") if command == "generate" else ("chat",)
        ramole(*words, *options, typed="x\n")
        return world.world.executor.requests[-1]

    request = asked("--preset", "fusion", "--k", "2", "--max-tokens", "7", "--seed", "5", "--stop", "a", "--stop", "b")
    composition = composition_from_pb(request.composition, PRESETS["ramole"])
    fusion = PRESETS["fusion"]
    assert (composition.k, composition.weighting, composition.merge) == (2, fusion.weighting, fusion.merge)
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.seed, list(sampling.stop)) == (7, 5, ["a", "b"])
    served = world.world.settings.gateway.preset
    composition = composition_from_pb(asked("--k", "1").composition, PRESETS["ramole"])
    assert (composition.k, composition.merge) == (1, PRESETS[served].merge), "k of the server's own composition"
    assert len(asked("--k", "0").experts) == 0
    line = ramole(*(("generate", "x") if command == "generate" else ("chat",)), "--preset", "best", code=1)
    assert line.startswith("error: --preset: no preset 'best'")


def test_the_status_is_what_the_server_says(world: WorldThread) -> None:
    found = of_json("status")
    assert (found["running"], found["max_running"], found["waiting"], found["ended"]) == (1, 32, 0, 9)
    assert found["tiers"] == [{"tier": "device", "adapters": 1, "num_bytes": 100, "hits": 7, "misses": 3}]
    assert [service["name"] for service in found["services"]] == ["adapters", "embedding", "retrieval", "executor"]
    assert "tokens_per_s" not in found, "one look shows no rate"
    shown = ramole("status")
    assert "1 of 32" in shown
    assert "1 in 8 slots" in shown


def test_watching_goes_on_when_the_server_does_not_answer(world: WorldThread) -> None:
    world.world.executor.failures["GetStatus"] = [DeadlineExceeded("gone")]
    args = [str(Path(sys.executable).with_name("ramole")), "status", "--watch", "--every", "0.2", "--json"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second, third = (json.loads(process.stdout.readline()) for _ in range(3))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "gone" in first["error"]
    assert "tokens_per_s" not in second
    assert third["tokens_per_s"] == third["requests_per_s"] == 0.0


@pytest.mark.parametrize(
    ("seconds", "ended", "tokens", "expected"),
    [
        (2.0, 4, 100, {"requests_per_s": 2.0, "tokens_per_s": 50.0}),
        (2.0, -1, 100, None),
        (2.0, 4, -5, None),
        (0.0, 4, 100, None),
    ],
)
def test_rates_are_told_only_where_both_looks_count_the_same(
    world: WorldThread, seconds: float, ended: int, tokens: int, expected: dict[str, float] | None
) -> None:
    with SyncRamoleClient(world.address) as client:
        before = client.describe()
    assert before.time is not None
    now = replace(
        before,
        time=before.time + timedelta(seconds=seconds),
        ended=before.ended + ended,
        tokens_out=before.tokens_out + tokens,
    )
    assert rates(now, before) == expected
    assert rates(now, None) is None
    assert rates(now, replace(before, max_running=0)) is None, "no executor had answered"


def test_an_upload_that_takes_long_shows_its_bytes_on_a_terminal_only(world: WorldThread, folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(bytes(3 * 2**20))
    args = [str(Path(sys.executable).with_name("ramole")), "upload", str(folder), "--named-only", "--name", "slow"]
    world.gate("Put", "adapters")
    try:
        ours, theirs = pty.openpty()
        shown = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | {"COLUMNS": "150"})
        piped = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(theirs)
        seen = b""
        while b"3.1/3.1 MB" not in seen:  # two seconds and some more
            seen += os.read(ours, 2**12)
        assert b"checking and indexing" in seen
    finally:
        world.open("Put", "adapters")
    assert shown.wait(60) == 0
    assert piped.communicate(timeout=60)[1] == b""
    assert piped.returncode == 0
    os.close(ours)
