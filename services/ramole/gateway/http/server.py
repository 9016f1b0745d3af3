"""The HTTP port: uvicorn inside the gateway's process and event loop, started and drained with the gRPC port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from ramole.core.address import join_address
from ramole.core.errors import WrongState
from ramole.gateway.http.connection import Connection, ConnectionLimits
from ramole.transport.tls import ServerTls

_BACKLOG = 1024
_KEEP_ALIVE_S = 30


class HttpServer:
    """Serves one application on one port.

    Args:
        app: what to serve.
        host, port: where; port 0 = any free one.
        limits: of its connections.
        tls: absent = plain HTTP.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, limits: ConnectionLimits, tls: ServerTls | None = None
    ) -> None:
        self._limits = limits
        self._app = app
        self._host = host
        self._port = port
        self._tls = tls
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._is_draining = False

    @property
    def address(self) -> str:
        """``host:port`` as bound."""
        return join_address(self._host, self._port)

    async def start(self) -> None:
        """Binds the port and serves. Raises WrongState when it is taken."""
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        tls = self._tls
        config = uvicorn.Config(
            self._app,
            http=partial(Connection, limits=self._limits, is_draining=lambda: self._is_draining),  # type: ignore[arg-type]  # whatever makes a protocol
            ws="none",
            log_config=None,
            access_log=False,  # the bracket writes one line for each call
            server_header=False,
            lifespan="off",
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            ssl_context_factory=None if tls is None else lambda _, __: tls.context(),
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        started = asyncio.create_task(self._server.has_started.wait())
        await asyncio.wait((started, self._serving), return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await self._serving
            raise WrongState(f"cannot serve HTTP on {self.address}", field="gateway.http", remedy="see the log")

    def begin_drain(self) -> None:
        """Closes connections that nobody uses; each of the others ends with its next answer, new ones too."""
        self._is_draining = True
        for connection in list(self._server.server_state.connections) if self._server is not None else ():
            connection.shutdown()

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, lets what is sent arrive within `grace_s`, then breaks off."""
        if self._server is None or self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]  # an int by name only
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They belong to the system that this server is a part of."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.setblocking(False)
    except OSError as error:
        raise WrongState(
            f"cannot listen on {join_address(host, port)}: {error.strerror}",
            field="gateway.http.port",
            remedy="choose another port, or 0 for any free one",
        ) from error
    return listener
