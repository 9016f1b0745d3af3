"""A real Milvus server on loopback, for measurements and tests, from the package ``milvus`` (x86_64 Linux).

The package's own launcher leaves the server behind when it is killed, and gives every server of a machine the same
ports for etcd. Here all ports are free ones, and the server dies with the process that started it.
"""

from __future__ import annotations

import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from ramole.core.errors import Unavailable, WrongState

# Set in the child, before it becomes Milvus: the kernel ends it when its parent dies, however that dies.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
_PARTS = ("proxy", "rootCoord", "dataCoord", "queryCoord", "dataNode", "queryNode", "indexNode")
_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 3.0  # Milvus 2.3 often hangs when asked to stop, and loses nothing when it is killed


class MilvusServer:
    """One server with its own data folder. Its address stays the same over restarts. `start` it, then `stop` it.

    Args:
        folder: empty or of an earlier server; takes a few hundred MB.
        options: settings of ``milvus.yaml`` by their dotted keys; every key must be there already.
        programs: folder of the unpacked programs, which several servers may share: unpacking takes as long as starting.
            None = one of its own, in `folder`, there as long as the server runs.

    Attributes:
        port: of the proxy, which is all that clients talk to. Milvus listens on all interfaces: not for production.
    """

    def __init__(self, folder: Path, options: dict[str, object] | None = None, *, programs: Path | None = None) -> None:
        self._folder = folder
        self._programs = programs or folder / "bin"
        self._owns_programs = programs is None
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_configured = False
        self._health_port, self._etcd_ports, self._ports = _choose_ports()
        self.port = self._ports["proxy_port"]

    @property
    def uri(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def is_installed() -> bool:
        """Whether the package is there."""
        return sys.platform == "linux" and find_spec("milvus") is not None

    def start(self) -> MilvusServer:
        """Returns once the server is healthy: seconds for an empty folder, up to two minutes after a crash.

        Raises:
            WrongState: the package is missing.
            Unavailable: it died or did not become healthy.
        """
        if not self.is_installed():
            raise WrongState("there is no Milvus server here", remedy="install milvus==2.3.5 (x86_64 Linux)")
        if not self._is_configured:  # the ports of a server that was killed are not free for a while
            self._write_config()
            self._is_configured = True
        unpack(self._programs)
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health_port),
            "LD_LIBRARY_PATH": str(self._programs),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
        }
        with (self._folder / "milvus.log").open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_parent([str(self._programs / "milvus"), "run", "standalone"]),
                cwd=self._folder,
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()
        return self

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> None:
        """Ends the server, by force if it takes too long. The data stay."""
        if self._process is None:
            return
        self._process.send_signal(sent)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._owns_programs:
            shutil.rmtree(self._programs)

    def signal(self, sent: signal.Signals) -> None:
        """Sends a signal, e.g. SIGSTOP for a server that hangs."""
        assert self._process is not None
        self._process.send_signal(sent)

    def _wait(self) -> None:
        assert self._process is not None
        import urllib.request

        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}/healthz", timeout=5) as answer:
                    if b"OK" in answer.read():
                        return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise Unavailable("Milvus did not start", remedy=f"see {self._folder / 'milvus.log'}")
            time.sleep(0.05)

    def _write_config(self) -> None:
        from milvus import MilvusServerConfig

        config = MilvusServerConfig(data_dir=str(self._folder), **self._ports)
        for part in _PARTS:
            config.set(f"{part}.ip", "127.0.0.1")
        for key, value in self._options.items():
            config.set(key, value)
        config.resolve()
        # The embedded etcd takes its ports from a file of its own only, for which the template has no key.
        path = self._folder / "configs" / "milvus.yaml"
        etcd = self._folder / "configs" / "etcd.yaml"
        path.write_text(path.read_text().replace("etcd:\n", f"etcd:\n  config:\n    path: {etcd}\n", 1))
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        etcd.write_text(
            f"name: default\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: default={peer}\n"
        )


def bound_to_parent(command: list[str]) -> list[str]:
    """`command`, so that Linux kills it when the thread that starts it ends, be it by kill -9."""
    return [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


def _choose_ports() -> tuple[int, tuple[int, int], dict[str, int]]:
    """Ports that are free now: of the health check, of etcd and, by option, of Milvus's parts."""
    names = [
        *("root_coord_port", "proxy_port", "proxy_internal_port", "query_coord_port", "query_node_port"),
        *("index_coord_port", "index_node_port", "data_coord_port", "data_node_port"),
    ]
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(len(names) + 3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        health, client, peer, *rest = [int(each.getsockname()[1]) for each in sockets]
    return health, (client, peer), dict(zip(names, rest, strict=True))


def unpack(target: Path) -> None:
    """Makes `target` a folder of Milvus's programs, a quarter of a GB, unless it is there."""
    import milvus

    if target.exists():
        return
    target.mkdir(parents=True)
    for packed in (Path(milvus.__file__).parent / "data" / "bin").glob("*.lzma"):
        with lzma.open(packed) as source, (target / packed.stem).open("wb") as sink:
            shutil.copyfileobj(source, sink)
        (target / packed.stem).chmod(0o755)
