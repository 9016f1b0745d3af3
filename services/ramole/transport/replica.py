"""The body of every Ray Serve replica: a service on a gRPC server of its own. Imports no ray.

Serve places, scales, watches and stops the replica; the calls themselves never pass through it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ramole.core.address import join_address
from ramole.core.settings import ServerSettings, Settings
from ramole.observability.export import Exposition, MetricSink, push
from ramole.observability.logs import setup_logging
from ramole.transport.peers import Addresses, Peers
from ramole.transport.picker import ServePicker
from ramole.transport.server import GrpcServer
from ramole.transport.service import Service

_ANY_HOST = ("0.0.0.0", "::")


def deployment_options(name: str, server: ServerSettings) -> dict[str, Any]:
    """Options of ``serve.deployment`` that all five services share."""
    return {
        "name": name,
        # Calls do not pass through Serve, only its own hooks do.
        "max_ongoing_requests": 64,
        # The replica drains for `grace_s` in its destructor, and then closes files and models.
        "graceful_shutdown_timeout_s": server.grace_s + 10.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "ray_actor_options": {"num_cpus": 0.1},
        "logging_config": {"enable_access_log": False},
        # Three bad answers in a row, and Serve replaces the replica.
        "health_check_period_s": 1.0,
    }


def build_service(make: Callable[[Settings], Service], settings: Settings) -> Service:
    """Makes the service of a process that belongs to it alone: its log lines go to standard error, which Ray keeps."""
    setup_logging(sys.stderr)
    return make(settings)


def serve_peers() -> Peers:
    """The internal services as applications of this Ray Serve instance: app ``embedding``, deployment ``Embedding``."""
    return Peers(Addresses(*(ServePicker(room.capitalize(), room) for room in Addresses.rooms())))


class Replica:
    """Built by Serve inside the replica's process; every method here is a hook that Serve looks for by name.

    Args:
        build: makes the service; runs in the replica's process, so that heavy imports stay out of all others.
        settings: of the replica's server.
        node_ip: tells the address of this machine; used when the server listens on all interfaces.
        metrics: makes what takes the metrics of the replica.
        default_timeout_s: deadline of calls whose client set none; None = no limit.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        build: Callable[[], Service],
        settings: ServerSettings,
        node_ip: Callable[[], str],
        metrics: Callable[[], MetricSink],
        default_timeout_s: float | None = None,
    ) -> None:
        self._service = build()
        self._server = GrpcServer(self._service, settings, default_timeout_s=default_timeout_s)
        self._host = node_ip() if settings.host in _ANY_HOST else settings.host
        await self._server.start()
        exposition = Exposition()
        exposition.add(self._server.room, self._server.registry)
        self._pushing = asyncio.create_task(push(exposition, metrics()))

    def address(self) -> str:
        """``host:port`` for callers."""
        return join_address(self._host, self._server.port)

    def record_replica_metadata(self) -> dict[str, str]:
        """Read once, when the replica is ready; reaches every picker."""
        return {"address": self.address()}

    def record_routing_stats(self) -> dict[str, object]:
        """Polled by the controller, reaches every request router: the service's own report and its load."""
        return {**self._service.routing_stats(), "load": self._service.load()}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy sees: Serve itself counts no calls, they do not pass through it."""
        return {"load": self._service.load()}

    def check_health(self) -> None:
        """Raises when the replica should be replaced."""
        self._server.check_health()

    def __del__(self) -> Awaitable[None] | None:
        """Serve awaits what this returns; when the interpreter calls it later there is nothing left to do."""
        server = getattr(self, "_server", None)
        if server is None or not server.is_serving:
            return None
        self._pushing.cancel()
        return server.stop()  # type: ignore[no-any-return]
