"""A TCP proxy that does to connections what bad networks do; it also leads to any live backend, as a Service does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from socket import IPPROTO_TCP, TCP_USER_TIMEOUT
from socket import socket as Socket
from types import TracebackType
from typing import Self

_BLOCK = 64 * 1024
UNACKNOWLEDGED_S = 5.0
"""How long gRPC lets a peer leave what it was sent unacknowledged: ``grpc.keepalive_timeout_ms`` of our channels."""


class FaultProxy:
    """Between clients and backends, on loopback.

    Args:
        backends: ``host:port`` each; a new connection goes to the next that takes one.
        port: to listen on; 0 = any free one.

    Attributes:
        delay_s: added to every block, in both directions.
        is_stalled: nothing passes, connections stay.
        bytes_per_s: of each connection and direction; 0 = no limit.
        refuses: new connections are reset.
    """

    def __init__(self, backends: Sequence[str], port: int = 0) -> None:
        self.backends = list(backends)
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.refuses = False
        self._moves = asyncio.Event()
        self._moves.set()
        self._port = port
        self._turn = itertools.count()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    @property
    def is_stalled(self) -> bool:
        return not self._moves.is_set()

    @is_stalled.setter
    def is_stalled(self, value: bool) -> None:
        self._moves.clear() if value else self._moves.set()

    @property
    def has_connections(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._open)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._moves.set()
        self.reset_all()
        await self._server.wait_closed()

    def reset_all(self) -> None:
        """Breaks every connection off, with a reset."""
        for writer in tuple(self._open):
            writer.transport.abort()

    def half_close_all(self) -> None:
        """Ends what is sent to the other side of each connection, and goes on listening."""
        for writer in tuple(self._open):
            with suppress(OSError, RuntimeError):
                writer.write_eof()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = None if self.refuses else await self._connect()
        if pair is None:
            writer.transport.abort()
            return
        back_reader, back_writer = pair
        self._open |= {writer, back_writer}
        try:
            with suppress(asyncio.CancelledError):  # the loop ends
                await asyncio.gather(self._pass(reader, back_writer), self._pass(back_reader, writer))
        finally:
            self._open -= {writer, back_writer}
            for each in (writer, back_writer):
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in range(len(self.backends)):
            host, _, port = self.backends[next(self._turn) % len(self.backends)].rpartition(":")
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                # A Service only translates addresses: what is not acknowledged breaks the client's own connection.
                socket: Socket = writer.get_extra_info("socket")
                socket.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, int(1000 * UNACKNOWLEDGED_S))
                return reader, writer
        return None

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while block := await reader.read(_BLOCK):
                await asyncio.sleep(self.delay_s + (len(block) / self.bytes_per_s if self.bytes_per_s else 0))
                await self._moves.wait()
                writer.write(block)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()
