"""Whoever is on the machine of a running system and calls what it listens on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ramole.app.services import SERVICES

INTERNAL = [name for name, spec in SERVICES.items() if not spec.is_public]


def listeners(processes: Iterable[psutil.Process]) -> set[int]:
    """All ports that they listen on, on this machine's own address or all of them."""
    found = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        found |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    return found


async def services_at(ports: Iterable[int], credentials: grpc.ChannelCredentials | None = None) -> dict[str, int]:
    """Internal service -> the port where its health says that it serves: health is open to everybody."""
    found = {}
    for port in ports:
        async with channel_to(port, credentials) as channel:
            for name in INTERNAL:
                request = health_pb2.HealthCheckRequest(service=f"ramole.v1.{name.capitalize()}")
                try:
                    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
                except grpc.aio.AioRpcError:
                    continue
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    found[name] = port
    return found


def channel_to(port: int, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel that is as good as a stranger can have."""
    at = f"127.0.0.1:{port}"
    return grpc.aio.insecure_channel(at) if credentials is None else grpc.aio.secure_channel(at, credentials)


def methods(name: str) -> dict[str, Any]:
    """All methods of a service by their path."""
    module = import_module(f"ramole.v1.{name}_pb2")
    service = module.DESCRIPTOR.services_by_name[name.capitalize()]
    return {f"/{service.full_name}/{method.name}": method for method in service.methods}


async def codes(name: str, port: int, metadata: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """What each method of a service answers to an operator's empty request, without a proof: method -> status."""
    found = {}
    lie = (("x-ramole-tenant", "default"), ("x-ramole-roles", "admin"), *metadata)
    async with channel_to(port) as channel:
        for path, method in methods(name).items():
            sides = ("unary", "stream")[method.client_streaming], ("unary", "stream")[method.server_streaming]
            call = getattr(channel, "_".join(sides))(path)
            rpc = call(iter([b""]) if method.client_streaming else b"", timeout=30, metadata=lie)
            found[path] = (await rpc.code()).name
    return found


def words(data_dir: Path) -> tuple[str, str]:
    """The secret of a system, as it is kept and as it travels."""
    secret = (data_dir / "internal.key").read_bytes().strip()
    return secret.decode(), hashlib.sha256(secret).hexdigest()
