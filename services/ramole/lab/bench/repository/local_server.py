"""`ramole serve --local` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.core.errors import Unavailable
from ramole.lab.milvus_server import bound_to_parent

_PROGRAM = "from ramole.cli import app; app(['serve', '--local'])"
_STOP_TIMEOUT_S = 60.0


class LocalServer:
    """One server with the shipped base model and default settings. `start` it, then `stop` it.

    Args:
        data_dir: store and index.

    Attributes:
        address: of the public port, once it has started.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._log = data_dir.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> float:
        """Returns the seconds from the start of the process until its health check says SERVING.

        Raises:
            Unavailable: it ended instead.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAMOLE_")}
        environment |= {
            "RAMOLE_DATA_DIR": str(self._data_dir),
            "RAMOLE_GATEWAY__SERVER__PORT": "0",
            "RAMOLE_GATEWAY__HTTP__PORT": "0",
            # Fleets are indexed under random vectors as wide as the sentence encoder's.
            "RAMOLE_EMBEDDING__RETRIEVER": "",
        }
        command = [sys.executable, "-c", _PROGRAM]
        start_s = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_parent(command) if sys.platform == "linux" else command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().decode().strip().rpartition(" on ")[2]
        if not self.address:
            tail = self._log.read_text(errors="replace")[-2000:]
            self.stop()
            raise Unavailable(f"the server did not start: {tail}", remedy="look at the end of its log")
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable("the server said that it is ready, its health check does not", remedy="report this")
        return time.perf_counter() - start_s

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        assert self._process is not None
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def stop(self) -> None:
        """Ends it in order, or by force if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
