"""Each thing that can be wrong is named with its setting and what to do; nothing is made, and nobody is disturbed."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from typer.testing import CliRunner

from ramole.adapters.store.writer import FolderLock
from ramole.app.doctor import Access, Case, Checked, Finding, Verdict, computing, examine, keeping, serving
from ramole.app.resolution import resolve
from ramole.cli import app
from ramole.core.errors import RamoleError, WrongState
from ramole.core.settings import PlainSettings, Settings
from ramole.gateway.keys import KeyFile, Role
from ramole.zoo.catalog import load_zoo
from support.certificates import Authority


def case_of(folder: Path, **settings: Any) -> Case:
    ports = {"gateway": {"server": {"port": 0}, "http": {"port": 0}}}
    return Case(resolve(PlainSettings(**{"data_dir": folder, **ports, **settings})), Access())


def failing(check: Any, case: Case) -> Finding:
    """What is told of a check: its finding, or the error that a start would end with."""
    try:
        found: Finding = check(case)
    except RamoleError as error:
        found = Finding.of(error)
    return found


async def test_settings_that_cannot_be_read_are_all_that_is_told() -> None:
    def load() -> Settings:
        raise WrongState("no setting has this name", field="RAMOLE_X", remedy="remove it")

    found = [checked async for checked in examine(load, Access())]
    assert found == [Checked("settings", Finding(Verdict.FAILED, "no setting has this name", "RAMOLE_X", "remove it"))]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_unless_a_server_runs(tmp_path: Path, taken: int) -> None:
    settings = {"gateway": {"server": {"port": taken}, "http": {"port": None}}}
    found = failing(serving.ports, case_of(tmp_path, **settings))
    assert (found.verdict, found.field) == (Verdict.FAILED, "gateway.server.port")
    (tmp_path / "store").mkdir()
    lock = FolderLock(tmp_path / "store")
    assert failing(serving.ports, case_of(tmp_path, **settings)).verdict is Verdict.OK
    lock.close()
    assert failing(serving.ports, case_of(tmp_path, **settings)).verdict is Verdict.FAILED


BASES: dict[str, tuple[tuple[str, ...], str]] = {
    "config.json": (("config.json",), "has no config.json"),
    "weights": (("model.safetensors",), "has no weights"),
    "tokenizer": (("tokenizer.json", "tokenizer_config.json"), "has no tokenizer"),
}


@pytest.mark.parametrize("missing", BASES)
def test_a_base_that_lacks_a_file_says_which(tmp_path: Path, missing: str) -> None:
    base = shutil.copytree(load_zoo().base_path, tmp_path / "base")
    names, says = BASES[missing]
    for name in names:
        (base / name).unlink(missing_ok=True)
    found = failing(computing.base_model, case_of(tmp_path, base_model=str(base), base_id="b"))
    assert (found.verdict, found.field) == (Verdict.FAILED, "base_model")
    assert says in found.says


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    found = failing(computing.device, case_of(tmp_path, executor={"device": "cuda:99"}))
    assert (found.verdict, found.field) == (Verdict.FAILED, "executor.device")
    found = failing(computing.device, case_of(tmp_path, executor={"threads": 10_000}))
    assert (found.verdict, found.field) == (Verdict.WARNING, "executor.threads")


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for check, settings, field in (
        (keeping.data_folder, {"data_dir": tmp_path / "file"}, "data_dir"),
        (keeping.caches, {"cache": {"dir": str(tmp_path / "file" / "below")}}, "cache.dir"),
    ):
        found = failing(check, case_of(tmp_path, **settings))
        assert (found.verdict, found.field) == (Verdict.FAILED, field)


@pytest.mark.parametrize(
    ("cache", "field"),
    [({"disk_bytes": 2**60}, "cache.disk_bytes"), ({"host_bytes": 2**60}, "cache.host_bytes")],
)
def test_caches_that_the_machine_has_no_room_for(tmp_path: Path, cache: dict[str, int], field: str) -> None:
    found = keeping.caches(case_of(tmp_path, cache={"disk_bytes": 0} | cache))
    assert (found.verdict, found.field) == (Verdict.WARNING, field)


def test_a_store_with_a_broken_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "store" / "manifests" / "default" / "a" / "1.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    removed = [manifest.with_name(name) for name in ("2.json", "2.gone")]  # as a crash leaves it: a start finishes it
    for path in removed:
        path.write_text("{}")
    found = keeping.store(case_of(tmp_path))
    assert found.verdict is Verdict.WARNING
    assert "1 manifests cannot be read" in found.says
    assert manifest.read_text() == "{"
    assert all(path.exists() for path in removed)


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("later", "verdict", "says"),
    [
        (0 * DAY, Verdict.WARNING, "valid until"),
        (2 * DAY, Verdict.FAILED, "expired at"),
        (-2 * DAY, Verdict.FAILED, "is valid from"),
    ],
)
def test_certificates_have_a_time(tmp_path: Path, later: timedelta, verdict: Verdict, says: str) -> None:
    cert, key, ca = map(str, Authority().write(tmp_path, "ramole"))
    tls = {"cert_file": cert, "key_file": key, "client_ca_file": ca}
    case = case_of(tmp_path, gateway={"server": {"port": 0}, "http": {"port": 0}, "tls": tls})
    with time_machine.travel(datetime.now(UTC) + later, tick=False):
        found = serving.certificates(case)
    assert found.verdict is verdict
    assert says in found.says
    assert found.field.startswith("gateway.tls.")


def test_a_certificate_with_another_key(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert, _, _ = map(str, Authority().write(tmp_path, "ramole"))
    _, key, _ = map(str, Authority().write(tmp_path / "other", "ramole"))
    tls = {"cert_file": cert, "key_file": key}
    found = failing(serving.certificates, case_of(tmp_path, gateway={"tls": tls}))
    assert (found.verdict, found.field) == (Verdict.FAILED, "gateway.tls")


def test_who_may_come(tmp_path: Path) -> None:
    public = {"server": {"host": "0.0.0.0", "port": 0}, "http": {"port": None}}
    found = failing(serving.access, case_of(tmp_path, gateway=public))
    assert (found.verdict, found.field) == (Verdict.FAILED, "gateway.server.host")
    found = failing(serving.access, case_of(tmp_path, gateway=public | {"allow_anonymous": True}))
    assert (found.verdict, found.field) == (Verdict.WARNING, "gateway.allow_anonymous")
    KeyFile(tmp_path / "keys.json").add("ann", "default", Role.USER)
    found = failing(serving.access, case_of(tmp_path, gateway=public))
    assert (found.verdict, found.field) == (Verdict.WARNING, "gateway.tls")
    assert failing(serving.access, case_of(tmp_path)).verdict is Verdict.OK
    (tmp_path / "keys.json").write_text("{")
    found = failing(serving.access, case_of(tmp_path))
    assert (found.verdict, found.field) == (Verdict.FAILED, "gateway.keys_file")


def test_services_that_could_not_know_each_other(tmp_path: Path) -> None:
    found = failing(serving.trust, case_of(tmp_path, executor={"server": {"host": "0.0.0.0"}}))
    assert (found.verdict, found.field) == (Verdict.FAILED, "executor.server.host")
    secret = tmp_path / "internal.key"
    assert failing(serving.trust, case_of(tmp_path)).verdict is Verdict.OK
    assert not secret.exists()
    secret.write_text("x" * 64)
    secret.chmod(0o644)
    assert failing(serving.trust, case_of(tmp_path)).field == "internal.secret_file"


@pytest.mark.parametrize(
    ("skew_s", "verdict"),
    [
        (0.5, Verdict.OK),
        (-4.9, Verdict.OK),
        (6.0, Verdict.WARNING),
        (-301.0, Verdict.FAILED),
        (None, Verdict.WARNING),
    ],
)
def test_clocks_are_compared_with_a_server_elsewhere(tmp_path: Path, skew_s: float | None, verdict: Verdict) -> None:
    case = Case(case_of(tmp_path).settings, Access("10.0.0.1:50051"), skew_s=skew_s)
    assert serving.clock(case).verdict is verdict


async def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    found = await serving.server(Case(case_of(tmp_path).settings, Access("127.0.0.1:1")))
    assert found.verdict is Verdict.FAILED
    assert "127.0.0.1:1" in found.says


def test_installed_libraries_are_those_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(tmp_path)
    assert computing.libraries(case).verdict is Verdict.OK
    asked = ["no-such-package>=1", "torch<1; extra == 'serve'", "peft<0.1; extra == 'lab'", "grpcio"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: asked)
    found = computing.libraries(case)
    assert found.verdict is Verdict.FAILED
    assert found.says.split("; ")[0] == "no-such-package is missing"
    assert found.says.split("; ")[1].startswith("torch is ")
    assert "peft" not in found.says
    assert "grpcio" not in found.says


def test_the_command_ends_with_1_when_something_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAMOLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAMOLE_NO_SUCH_SETTING", "1")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    [found] = json.loads(done.stdout)
    assert (found["check"], found["verdict"], found["field"]) == ("settings", "failed", "RAMOLE_NO_SUCH_SETTING")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert done.stdout.startswith("failed   settings        RAMOLE_NO_SUCH_SETTING: ")
    assert done.stdout.endswith("1 failed\n")
