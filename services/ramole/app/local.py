"""All five services in one process. Does not import ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from ramole.core.errors import RamoleError
from ramole.core.settings import Settings
from ramole.observability.export import Exposition, serve_metrics
from ramole.transport.peers import Addresses, Peers
from ramole.transport.picker import DirectoryPicker
from ramole.transport.server import GrpcServer

_WATCH_S = 0.25
_RETRY_S = 5.0

_log = logging.getLogger(__name__)


class LocalSystem:
    """Five gRPC servers in this process and event loop; they find each other in a common directory.

    One whose service has failed is replaced by a new one, as Ray Serve would.
    """

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._directory: dict[str, str] = {}
        self._exposition = Exposition()
        self._servers: dict[str, GrpcServer] = {}

    @property
    def address(self) -> str:
        """``host:port`` of the public gateway."""
        return self._directory["gateway"]

    async def start(self, settings: Settings) -> None:
        """Starts one service after the other: their libraries cannot be imported from two threads at once.

        Args:
            settings: resolved.

        Raises:
            RamoleError: a service cannot start; nothing is left running then.
        """
        peers = Peers(Addresses(*(DirectoryPicker(self._directory, room) for room in Addresses.rooms())))
        self._stack.push_async_callback(peers.close)
        try:
            self._stack.callback(serve_metrics(self._exposition, settings.metrics))
            for room, make in _factories(settings, peers).items():
                await self._begin(room, make)
                self._stack.push_async_callback(self._end, room)
                watching = asyncio.create_task(self._replace_when_failed(room, make))
                self._stack.push_async_callback(_cancelled, watching)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops the gateway first, then what is behind it."""
        await self._stack.aclose()

    async def _begin(self, room: str, make: Callable[[], GrpcServer]) -> None:
        server = make()
        await server.start()
        self._servers[room] = server
        self._directory[room] = server.address
        self._exposition.add(room, server.registry)

    async def _end(self, room: str) -> None:
        server = self._servers.pop(room, None)
        if server is not None:
            await server.stop()

    async def _replace_when_failed(self, room: str, make: Callable[[], GrpcServer]) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                if room in self._servers:
                    if self._is_well(room):
                        continue
                    self._directory.pop(room, None)
                    await self._end(room)
                await self._begin(room, make)
                _log.warning("%s was replaced", room)
            except Exception:
                _log.exception("%s could not be replaced; trying again", room)
                await asyncio.sleep(_RETRY_S)

    def _is_well(self, room: str) -> bool:
        try:
            self._servers[room].check_health()
        except RamoleError as error:
            _log.error("%s has failed: %s", room, error)
            return False
        return True


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _factories(settings: Settings, peers: Peers) -> dict[str, Callable[[], GrpcServer]]:
    """What makes a server for each service, in the order of their dependence."""
    from ramole.adapters.servicer import AdaptersService
    from ramole.embedding.servicer import EmbeddingService
    from ramole.executor.servicer import ExecutorService
    from ramole.gateway.servicer import GatewayService
    from ramole.retrieval.servicer import RetrievalService

    gateway = settings.gateway
    return {
        "adapters": lambda: GrpcServer(AdaptersService(settings), settings.adapters.server),
        "embedding": lambda: GrpcServer(EmbeddingService(settings), settings.embedding.server),
        "retrieval": lambda: GrpcServer(RetrievalService(settings), settings.retrieval.server),
        "executor": lambda: GrpcServer(ExecutorService(settings, peers), settings.executor.server),
        "gateway": lambda: GrpcServer(
            GatewayService(settings, peers), gateway.server, default_timeout_s=gateway.deadline_s
        ),
    }
