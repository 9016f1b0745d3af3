"""The engines that the index must behave the same on: a Lite folder, a Lite server, and Milvus itself."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from ramole.lab.milvus_server import MilvusServer, bound_to_parent
from ramole.retrieval.index import VectorIndex
from support.server_process import free_port


class Server(Protocol):
    """A server whose address stays the same over restarts."""

    @property
    def uri(self) -> str: ...

    def start(self) -> object: ...

    def stop(self, sent: signal.Signals = ...) -> None: ...


class LiteServerProcess:
    """`milvus-lite server` on a loopback port."""

    def __init__(self, data_dir: Path) -> None:
        self._port = free_port()
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> LiteServerProcess:
        program = str(Path(sys.executable).with_name("milvus-lite"))
        options = ["--data-dir", str(self._data_dir), "--host", "127.0.0.1", "--port", str(self._port)]
        self._process = subprocess.Popen(
            bound_to_parent([program, "server", *options]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(self.uri)
        return self

    def stop(self, sent: signal.Signals = signal.SIGKILL) -> None:
        self._process.send_signal(sent)
        self._process.wait(30)


def _wait_for(uri: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            MilvusClient(uri, timeout=10, dedicated=True).close()
            return
        except MilvusException:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)


@pytest.fixture(scope="package")
def start_milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., MilvusServer]]:
    """Starts real servers, with options of milvus.yaml, that end with this folder. Without the package: skips."""
    if not MilvusServer.is_installed():
        pytest.skip("THE REAL MILVUS SERVER IS NOT TESTED: its package milvus==2.3.5 runs on x86_64 Linux only")
    servers: list[MilvusServer] = []
    programs = tmp_path_factory.mktemp("milvus") / "bin"

    def start(**options: object) -> MilvusServer:
        servers.append(MilvusServer(tmp_path_factory.mktemp("milvus"), options, programs=programs))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop(signal.SIGKILL)
    shutil.rmtree(programs)


@pytest.fixture(scope="package")
def milvus(start_milvus: Callable[..., MilvusServer]) -> MilvusServer:
    """One real server for all tests that do it no harm. Its clock ticks faster: strong reads wait for it."""
    server = start_milvus(**{"proxy.timeTickInterval": 50})
    _wait_for(server.uri)
    return server


@pytest.fixture(scope="package")
def lite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServerProcess]:
    """One Lite server for all tests that do it no harm."""
    started = LiteServerProcess(tmp_path_factory.mktemp("lite")).start()
    yield started
    started.stop()


@pytest.fixture(scope="package", params=["lite-folder", "lite-server", "milvus"])
def engine(request: pytest.FixtureRequest) -> Server | None:
    """A running server, or None for a folder."""
    fixtures = {"lite-folder": None, "lite-server": "lite_server", "milvus": "milvus"}
    name = fixtures[request.param]
    return request.getfixturevalue(name) if name else None


_databases = itertools.count()


@pytest.fixture
def uri(engine: Server | None, tmp_path: Path) -> Iterator[str]:
    """Where an empty index can be opened: a database of its own on a server."""
    if engine is None:
        yield str(tmp_path / "index.db")
        return
    name = f"db{next(_databases)}"
    client = MilvusClient(engine.uri, timeout=10, dedicated=True)
    client.create_database(name)
    client.close()
    yield f"{engine.uri}/{name}"
    client = MilvusClient(f"{engine.uri}/{name}", timeout=10, dedicated=True)
    for collection in client.list_collections():
        client.drop_collection(collection)
    client.close()


@pytest.fixture
def index(uri: str) -> Iterator[VectorIndex]:
    opened = VectorIndex.open(uri)
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiteServerProcess]:
    """A Lite server of the test's own."""
    started = LiteServerProcess(tmp_path / "data").start()
    yield started
    started.stop()
