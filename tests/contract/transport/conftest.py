from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from ramole.core.settings import ServerSettings
from ramole.transport.identity import Identify, told_principal
from ramole.transport.peers import Peers
from ramole.transport.picker import Picker
from ramole.transport.server import GrpcServer
from ramole.transport.service import Service
from support.probe_service import peers_at


class Net:
    """Starts servers and clients, and stops them at the end of the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def serve(
        self,
        service: Service,
        settings: ServerSettings | None = None,
        default_timeout_s: float | None = None,
        identify: Identify = told_principal,
    ) -> GrpcServer:
        server = GrpcServer(
            service, settings or ServerSettings(), default_timeout_s=default_timeout_s, identify=identify
        )
        self._stack.push_async_callback(server.stop)
        await server.start()
        return server

    def peers(self, picker: Picker | str) -> Peers:
        peers = peers_at(picker)
        self._stack.push_async_callback(peers.close)
        return peers


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with AsyncExitStack() as stack:
        yield Net(stack)
