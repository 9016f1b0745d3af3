"""The body of every Ray Serve replica: a service on a gRPC server of its own. Imports no ray.

Serve places, scales, watches and stops the replica; the calls themselves never pass through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ramole.core.address import join_address
from ramole.core.settings import ServerSettings
from ramole.observability.export import Shared
from ramole.transport.server import GrpcServer

_ANY_HOST = ("0.0.0.0", "::")


def deployment_options(name: str, server: ServerSettings, *, has_fixed_port: bool) -> dict[str, Any]:
    """Options of ``serve.deployment`` that every `Replica` needs.

    Args:
        has_fixed_port: whether there can be one on each machine only.
    """
    return {
        "name": name,
        # Calls do not pass through Serve, only its own hooks do.
        "max_ongoing_requests": 64,
        # The replica drains for `grace_s` in its destructor, and then closes files and models.
        "graceful_shutdown_timeout_s": server.grace_s + 10.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "logging_config": {"enable_access_log": False},
        # Three bad answers in a row, or none, and Serve replaces the replica: within a quarter of a minute one that
        # stands still. Work runs on threads of its own, so that the loop which answers is never busy for long.
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 3.0,
        **({"max_replicas_per_node": 1} if has_fixed_port else {}),
    }


class Replica:
    """Built by Serve inside the replica's process; every method here is a hook that Serve looks for by name.

    Args:
        build: makes the server; runs in the replica's process, so that heavy imports stay out of all others.
        node_ip: tells the address of this machine; used when the server listens on all interfaces.
        metrics: brings those of the server to Prometheus.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, build: Callable[[], GrpcServer], node_ip: Callable[[], str], metrics: Callable[[GrpcServer], Shared]
    ) -> None:
        self._server = server = build()
        self._host = node_ip() if server.host in _ANY_HOST else server.host
        await server.start()
        self._metrics = metrics(server)
        await asyncio.to_thread(self._metrics.start)

    def address(self) -> str:
        """``host:port`` for callers."""
        return join_address(self._host, self._server.port)

    def record_replica_metadata(self) -> dict[str, str]:
        """Read once, when the replica is ready; reaches every picker."""
        return {"address": self.address()}

    def record_routing_stats(self) -> dict[str, object]:
        """Polled by the controller, reaches every request router."""
        return self._server.routing_stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy sees: Serve itself counts no calls, they do not pass through it."""
        return dict(self._server.usage())

    def check_health(self) -> None:
        """Raises when the replica should be replaced."""
        self._server.check_health()

    def __del__(self) -> Awaitable[None] | None:
        """Serve awaits what this returns; when the interpreter calls it later there is nothing left to do."""
        server = getattr(self, "_server", None)
        if server is None or not server.is_serving:
            return None
        return self._end()

    async def _end(self) -> None:
        await self._server.stop()
        await asyncio.to_thread(self._metrics.stop)
