"""`ramole serve` on Ray with two replicas of everything that may be two, and a hand on each of its processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.gateway.keys import KeyFile, Role
from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess
from support.traffic_tasks import two_tenants

START_S = 300
_LISTEN = "0A"  # in the kernel's tables


class Fleet:
    """The system, its tenants ``ann`` and ``bob``, and an operator's key.

    Args:
        folder: of its data.
        env: more settings, as variables.
    """

    def __init__(self, folder: Path, zoo: Zoo, env: Mapping[str, str] | None = None, replicas: int = 2) -> None:
        (folder / "data").mkdir(parents=True)
        keys = KeyFile(folder / "data" / "keys.json")
        self.tenants = two_tenants(zoo, keys)
        self.admin_key = keys.add("ops", "ops", Role.ADMIN)[1]
        self.server = ServerProcess(
            folder / "data",
            env={
                "RAMOLE_GATEWAY__SERVER__PORT": "0",
                "RAMOLE_GATEWAY__REPLICAS": str(replicas),
                "RAMOLE_EMBEDDING__REPLICAS": str(replicas),
                "RAMOLE_EXECUTOR__REPLICAS": str(replicas),
                **(env or {}),
            },
        )
        self.replicas = replicas

    def wait_until_serving(self) -> Fleet:
        """Returns when every replica runs and every gateway is SERVING."""
        deadline = time.monotonic() + START_S
        while True:
            assert self.server.process.poll() is None, self.server.log[-4000:]
            if len(self.processes("executor")) == self.replicas and len(self.gateways()) == self.replicas:
                return self
            assert time.monotonic() < deadline, self.server.log[-4000:]
            time.sleep(0.5)

    def processes(self, service: str) -> list[psutil.Process]:
        """Of the replicas of a service."""
        return replicas_of(service, self.server.descendants())

    def named(self, title: str) -> list[psutil.Process]:
        """Processes whose command line holds a word, such as ``gcs_server``."""
        return [p for p in self.server.descendants() if title in _title(p)]

    def gateways(self) -> list[str]:
        """``host:port`` of every gateway that is SERVING."""
        return serving_gateways(self.server.descendants())

    def stop(self) -> list[psutil.Process]:
        """Ends it; returns what outlived it."""
        return self.server.stop()


def replicas_of(service: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that are replicas of a service."""
    return [each for each in processes if _title(each).startswith(f"ray::ServeReplica:{service}:")]


def serving_gateways(processes: Iterable[psutil.Process], host: str = "127.0.0.1") -> list[str]:
    """``host:port`` of every gateway among them that is SERVING; `host` is where they listen."""
    addresses = [f"{host}:{port}" for each in replicas_of("gateway", processes) for port in _listening(each.pid)]
    with ThreadPoolExecutor(max(1, len(addresses))) as asked:  # one that stands still holds up the others
        return [address for address, serves in zip(addresses, asked.map(_serves, addresses), strict=True) if serves]


def _listening(pid: int) -> list[int]:
    """The TCP ports on which a process listens, in whatever network namespace it is: psutil knows its own only."""
    inodes, ports = set(), []
    with suppress(OSError):  # it has ended
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(os.readlink(fd))
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in inodes:
                    ports.append(int(fields[1].rpartition(":")[2], 16))
    return ports


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="ramole.v1.Gateway"),  # Ray's own servers answer too
                timeout=3,
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
