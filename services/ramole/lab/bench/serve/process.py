"""Starts servers as processes of their own and stops them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from ramole.core.errors import Unavailable
from ramole.lab.milvus_server import bound_to_parent

_STOP_TIMEOUT_S = 30.0


class ServerProcess:
    """One server, from here to `stop`.

    Args:
        kind: see `child.KINDS`.
        folder: for its data and its log.
        settings: as in the YAML file.

    Attributes:
        address, http_address: ``host:port``, or empty.

    Raises:
        Unavailable: it ended instead.
    """

    def __init__(self, kind: str, folder: Path, settings: dict[str, Any] | None = None) -> None:
        given = {"data_dir": str(folder / kind)} | (settings or {})
        command = [sys.executable, "-m", "ramole.lab.bench.serve.child", kind, json.dumps(given)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAMOLE_")}
        log = folder / f"{kind}.log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                bound_to_parent(command) if sys.platform == "linux" else command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            tail = log.read_text(errors="replace")[-2000:]
            raise Unavailable(f"the server {kind!r} did not start: {tail}", remedy="look at the end of its log")
        told = json.loads(line)
        self.address: str = told["address"]
        self.http_address: str = told["http_address"]

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has taken so far."""
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def usage(self) -> dict[str, float]:
        """Memory in MiB (``rss_mib``), open ``handles`` and ``threads``, now."""
        process = psutil.Process(self._process.pid)
        return {
            "rss_mib": process.memory_info().rss / 2**20,
            "handles": process.num_fds(),
            "threads": process.num_threads(),
        }

    def stop(self) -> None:
        """Ends it in order, or by force if that takes too long."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
