"""The engines that the index must behave the same on: a Lite folder, a Lite server, and Milvus itself if installed."""

from __future__ import annotations

import importlib.util
import itertools
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from ramole.retrieval.index import VectorIndex

BIN = Path(sys.executable).parent


class ServerProcess:
    """A Milvus server on a loopback port that stays the same over restarts."""

    def __init__(self, command: Callable[[int], list[str]], start_timeout_s: float) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        self._command = command
        self._start_timeout_s = start_timeout_s
        self._databases = itertools.count()
        self._process: subprocess.Popen[bytes]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> ServerProcess:
        self._process = subprocess.Popen(self._command(self._port), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            assert self._process.poll() is None, "the server died"
            try:
                with socket.create_connection(("127.0.0.1", self._port)):
                    MilvusClient(self.uri, timeout=10, dedicated=True).close()
                return self
            except (OSError, MilvusException):
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)

    def stop(self, sent: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(sent)
        self._process.wait(30)

    def new_database(self) -> str:
        """The address of an empty database."""
        name = f"db{next(self._databases)}"
        client = MilvusClient(self.uri, timeout=10, dedicated=True)
        client.create_database(name)
        client.close()
        return f"{self.uri}/{name}"


def _lite_server(data_dir: Path) -> ServerProcess:
    def command(port: int) -> list[str]:
        return [
            *(str(BIN / "milvus-lite"), "server", "--data-dir", str(data_dir)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    return ServerProcess(command, start_timeout_s=60)


def _milvus(data_dir: Path) -> ServerProcess:
    if importlib.util.find_spec("milvus") is None:
        pytest.skip("THE REAL MILVUS SERVER IS NOT TESTED: install the package milvus==2.3.5 (x86_64 Linux) to do so")
    parts = ("proxy", "rootCoord", "dataCoord", "queryCoord", "dataNode", "queryNode", "indexNode")

    def command(port: int) -> list[str]:
        return [
            *(str(BIN / "milvus-server"), "--data", str(data_dir), "--proxy-port", str(port)),
            *itertools.chain.from_iterable(("--extra-config", f"{part}.ip=127.0.0.1") for part in parts),
        ]

    return ServerProcess(command, start_timeout_s=180)


@pytest.fixture(scope="session", params=["lite-folder", "lite-server", "milvus"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess | None]:
    """A running server, or None for a folder."""
    if request.param == "lite-folder":
        yield None
        return
    make = {"lite-server": _lite_server, "milvus": _milvus}[request.param]
    server = make(tmp_path_factory.mktemp(request.param)).start()
    yield server
    server.stop()


@pytest.fixture
def uri(engine: ServerProcess | None, tmp_path: Path) -> str:
    """Where an empty index can be opened."""
    return engine.new_database() if engine else str(tmp_path / "index.db")


@pytest.fixture
def index(uri: str) -> Iterator[VectorIndex]:
    opened = VectorIndex.open(uri)
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A Lite server of the test's own."""
    started = _lite_server(tmp_path / "data").start()
    yield started
    started.stop()
