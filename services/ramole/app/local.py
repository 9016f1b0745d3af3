"""All five services in one process. Does not import ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial

from ramole.app.services import PUBLIC, SERVICES, ServiceSpec
from ramole.app.trust import trust_of
from ramole.core.errors import RamoleError
from ramole.core.settings import Settings
from ramole.observability.export import Exposition, serve_metrics
from ramole.transport.peers import Peers
from ramole.transport.picker import DirectoryPicker
from ramole.transport.server import GrpcServer

_WATCH_S = 0.25
_RETRY_S = 5.0

_log = logging.getLogger(__name__)


class LocalSystem:
    """Five gRPC servers in this process and event loop; they find each other in a common directory.

    One whose service has failed is replaced by a new one, as Ray Serve would.

    Args:
        services: by name, in the order of their start.
    """

    def __init__(self, services: Mapping[str, ServiceSpec] = SERVICES) -> None:
        self._services = services
        self._stack = AsyncExitStack()
        self._directory: dict[str, str] = {}
        self._exposition = Exposition()
        self._servers: dict[str, GrpcServer] = {}

    @property
    def address(self) -> str:
        """``host:port`` of the public gateway."""
        return self._directory[PUBLIC]

    @property
    def http_address(self) -> str:
        """``host:port`` of the public HTTP port; '' without one."""
        return self._servers[PUBLIC].http_address

    async def start(self, settings: Settings) -> None:
        """Starts one service after the other: their libraries cannot be imported from two threads at once.

        Args:
            settings: resolved.

        Raises:
            RamoleError: a service cannot start; nothing is left running then.
        """
        trust = trust_of(settings)
        peers = Peers(partial(DirectoryPicker, self._directory), trust)
        self._stack.push_async_callback(peers.close)
        try:
            self._stack.callback(serve_metrics(self._exposition, settings.metrics))
            for name, spec in self._services.items():
                make = partial(spec.server, settings, lambda: peers, trust)
                await self._begin(name, make)
                self._stack.push_async_callback(self._end, name)
                watching = asyncio.create_task(self._replace_when_failed(name, make))
                self._stack.push_async_callback(_cancelled, watching)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops the gateway first, then what is behind it."""
        await self._stack.aclose()

    async def _begin(self, name: str, make: Callable[[], GrpcServer]) -> None:
        server = make()
        await server.start()
        self._servers[name] = server
        self._directory[name] = server.address
        self._exposition.add(name, server.registry)

    async def _end(self, name: str) -> None:
        server = self._servers.pop(name, None)
        if server is not None:
            await server.stop()

    async def _replace_when_failed(self, name: str, make: Callable[[], GrpcServer]) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                if name in self._servers:
                    if self._is_well(name):
                        continue
                    self._directory.pop(name, None)
                    await self._end(name)
                await self._begin(name, make)
                _log.warning("%s was replaced", name)
            except Exception:
                _log.exception("%s could not be replaced; trying again", name)
                await asyncio.sleep(_RETRY_S)

    def _is_well(self, name: str) -> bool:
        try:
            self._servers[name].check_health()
        except RamoleError as error:
            _log.error("%s has failed: %s", name, error)
            return False
        return True


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
