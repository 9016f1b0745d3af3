"""`ramole serve` begins and ends as its operators need it: faults in one line, SIGTERM at any moment, nothing left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ramole.app.scratch import MARK, members
from ramole.client.client import RamoleClient
from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess

RAMOLE = Path(sys.executable).with_name("ramole")
ANY_PORT = {"RAMOLE_GATEWAY__SERVER__PORT": "0", "RAMOLE_GATEWAY__HTTP__PORT": "0"}
MODES = pytest.mark.parametrize("options", [("--local",), ()], ids=["local", "ray"])
NO_PROXY = dict.fromkeys(("no_proxy", "no_grpc_proxy"), "")
DEAD_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9") | NO_PROXY


def serve(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A server that ends by itself."""
    return subprocess.run(
        [RAMOLE, "serve", *options],
        env=os.environ
        | {
            "RAMOLE_DATA_DIR": str(folder),
            "RAMOLE_GATEWAY__SERVER__PORT": "0",
            "RAMOLE_GATEWAY__HTTP__PORT": "0",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def folder_of(server: ServerProcess) -> Path:
    """The temporary folder of a server whose Ray has begun to start."""
    while server.process.poll() is None:
        time.sleep(0.05)
        for process in server.descendants():
            try:
                if folder := process.environ().get(MARK):
                    return Path(folder)
            except psutil.Error:
                continue
    raise AssertionError(server.log)


@pytest.fixture
def broken_base(tmp_path: Path, zoo: Zoo) -> Path:
    """Has all files; but its weights can not be read."""
    folder = tmp_path / "base"
    shutil.copytree(zoo.base_path, folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    return folder


@MODES
def test_a_mistake_is_one_line_before_any_model_loads(tmp_path: Path, options: tuple[str, ...]) -> None:
    config = tmp_path / "ramole.yaml"
    mistakes = (
        ("gateway: {\n", f"{config} line 2"),
        ("executor: {device: gpu0}\n", "executor.device"),
        ("adapters: {replicas: 2}\n", "adapters.replicas: 2 replicas of a service that can have one only"),
    )
    for text, says in mistakes:
        config.write_text(text)
        done = serve(tmp_path / "data", *options, RAMOLE_CONFIG=str(config))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    done = serve(tmp_path / "data", *options, RAMOLE_BASE_MODEL=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: base_model: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


@MODES
def test_a_service_that_fails_ends_the_start(tmp_path: Path, options: tuple[str, ...], broken_base: Path) -> None:
    done = serve(tmp_path / "data", *options, RAMOLE_BASE_MODEL=str(broken_base))
    assert done.returncode == 1
    *log, error = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "base_model" in error
    assert "Traceback" not in error
    assert all(line.startswith("{") for line in log), done.stderr
    # What the services had to say is there, also that of processes of their own.
    assert any('"level": "warning", "logger": "ramole.lora.base_norms"' in line for line in log), done.stderr


@pytest.mark.parametrize("moment", ["at once", "replicas"])
def test_sigterm_ends_a_start_on_ray(tmp_path: Path, moment: str) -> None:
    server = ServerProcess(tmp_path / "data", env={"RAMOLE_RAY__STOP_S": "5"})
    folder = folder_of(server)
    while moment == "replicas" and not any("ServeReplica" in process.name() for process in members_now(server)):
        assert server.process.poll() is None, server.log
        time.sleep(0.05)
    assert not server.stop(), "processes outlived the server"
    assert server.process.returncode == 0, server.log
    assert not folder.exists()
    assert not members(folder)
    assert "serves" not in server.log


def members_now(server: ServerProcess) -> Iterator[psutil.Process]:
    for process in server.descendants():
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            yield process


@pytest.mark.slow
def test_a_killed_server_is_cleared_away_by_the_next(tmp_path: Path, zoo: Zoo) -> None:
    """And the next one runs on IPv6, with proxies in its environment."""
    first = ServerProcess(tmp_path / "data").wait_until_serving()
    left = folder_of(first)
    replicas = [process for process in members(left) if "ServeReplica" in process.name()]
    assert replicas
    assert {process.nice() for process in replicas} == {0}
    second = serve(tmp_path / "data", "--local")
    assert second.returncode == 1
    assert second.stderr.startswith("error: data_dir: ")
    assert left.exists(), "a living server's folder is its own"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert left.exists()

    hosts = ("GATEWAY", "EMBEDDING", "RETRIEVAL", "ADAPTERS", "EXECUTOR")
    on_ipv6 = {f"RAMOLE_{service}__SERVER__HOST": "::1" for service in hosts}
    server = ServerProcess(tmp_path / "data", env={**on_ipv6, **DEAD_PROXY}, host="[::1]").wait_until_serving()
    assert not left.exists()
    assert not members(left)
    adapter = zoo.adapters[0]

    async def use() -> str:
        async with RamoleClient(server.address) as client:
            await client.upload(adapter.path, adapter.samples, adapter="mine")
            return (await client.complete(adapter.prompts[0].prompt)).text

    assert asyncio.run(use()).strip()
    told = subprocess.run(
        [RAMOLE, "adapters", "--json", "--address", server.address],
        env=os.environ | DEAD_PROXY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "mine" in told.stdout
    assert f"on {server.address}" in server.log
    assert not server.stop(), "processes outlived the server"
