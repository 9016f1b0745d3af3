"""All five services in one process. Does not import ray."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ramole.core.settings import Settings
from ramole.observability.export import Exposition, serve_metrics
from ramole.transport.peers import Addresses, Peers
from ramole.transport.picker import DirectoryPicker
from ramole.transport.server import GrpcServer


class LocalSystem:
    """Five gRPC servers in this process and event loop; they find each other in a common directory."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._directory: dict[str, str] = {}

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
        exposition = Exposition()
        try:
            self._stack.callback(serve_metrics(exposition, settings.metrics))
            for room, server in _servers(settings, peers).items():
                await server.start()
                self._stack.push_async_callback(server.stop)
                self._directory[room] = server.address
                exposition.add(room, server.registry)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops the gateway first, then what is behind it."""
        await self._stack.aclose()


def _servers(settings: Settings, peers: Peers) -> dict[str, GrpcServer]:
    """One server for each service, in the order of their dependence."""
    from ramole.adapters.servicer import AdaptersService
    from ramole.embedding.servicer import EmbeddingService
    from ramole.executor.servicer import ExecutorService
    from ramole.gateway.servicer import GatewayService
    from ramole.retrieval.servicer import RetrievalService

    gateway = settings.gateway
    return {
        "adapters": GrpcServer(AdaptersService(settings), settings.adapters.server),
        "embedding": GrpcServer(EmbeddingService(settings), settings.embedding.server),
        "retrieval": GrpcServer(RetrievalService(settings), settings.retrieval.server),
        "executor": GrpcServer(ExecutorService(settings, peers), settings.executor.server),
        "gateway": GrpcServer(GatewayService(settings, peers), gateway.server, default_timeout_s=gateway.deadline_s),
    }
