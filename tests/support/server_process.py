"""`ramole serve` as its users run it: a process of its own, in a process group of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.canary import check_silent

START_TIMEOUT_S = 240

# Set in the child, before it becomes the server: the kernel asks it to stop when the tests end, however they end.
_STOP_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def free_port() -> int:
    """A port that was free a moment ago, of a range from which neither the kernel nor Ray hands out any."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


class ServerProcess:
    """A running `ramole serve`; `address` is its public port, `metrics_port` Prometheus' one."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        env: dict[str, str] | None = None,
        host: str = "127.0.0.1",
        log_folder: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.address = f"{host}:{self.port}"
        self._log_path = (log_folder or data_dir.parent) / f"serve-{self.port}.log"
        self._log = self._log_path.open("wb")
        self.metrics_port = free_port()
        self._env = {
            "RAMOLE_DATA_DIR": str(data_dir),
            "RAMOLE_GATEWAY__SERVER__PORT": str(self.port),
            "RAMOLE_GATEWAY__HTTP__PORT": "0",
            "RAMOLE_METRICS__PORT": str(self.metrics_port),
            **(env or {}),
        }
        command = [str(Path(sys.executable).with_name("ramole")), "serve", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _STOP_WITH_PARENT, str(os.getpid()), *command],
            env=os.environ | self._env,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        """Everything the server has printed."""
        return self._log_path.read_text(errors="replace")

    def wait_until_serving(self) -> ServerProcess:
        """Polls grpc.health.v1 as Kubernetes would."""
        deadline = time.monotonic() + START_TIMEOUT_S
        with grpc.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise AssertionError(f"ramole serve exited with {self.process.returncode}:\n{self.log[-4000:]}")
                try:
                    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
                except grpc.RpcError:
                    continue
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return self
                time.sleep(0.1)
        raise AssertionError(f"ramole serve did not start within {START_TIMEOUT_S} s:\n{self.log[-4000:]}")

    def descendants(self) -> list[psutil.Process]:
        """All processes that the server has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """kill -9 on the whole process group, at once, and waits until every descendant is gone."""
        descendants = self.descendants()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(descendants, timeout=60)
        assert not alive, f"still running after the kill: {alive}"
        self._close_log()

    def stop(self) -> list[psutil.Process]:
        """SIGTERM; returns the descendants that outlived the server."""
        descendants = self.descendants()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"ramole serve did not stop on SIGTERM:\n{self.log[-4000:]}") from None
        _, alive = psutil.wait_procs(descendants, timeout=30)
        self._close_log()
        return alive

    def _close_log(self) -> None:
        self._log.close()
        check_silent(self.log)
