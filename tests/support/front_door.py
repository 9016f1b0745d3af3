"""Both public ports of a gateway among neighbours in memory: nothing behind them is slow."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from ramole.core.settings import HttpSettings, PublicServerSettings
from support.gateway_world import World


class BothPorts(World):
    """A world whose gateway has both ports."""

    def open_both(
        self, *, server: Mapping[str, Any] | None = None, http: Mapping[str, Any] | None = None, **gateway: Any
    ) -> None:
        """Before the start; with settings that differ from those of `World`."""
        ports = {
            "server": PublicServerSettings(**{"port": 0, **(server or {})}),
            "http": HttpSettings(**{"port": 0, **(http or {})}),
        }
        changed = self.settings.gateway.model_copy(update={**ports, **gateway})
        self.settings = self.settings.model_copy(update={"gateway": changed})

    @property
    def grpc_address(self) -> str:
        """``host:port``."""
        return self.servers["gateway"].address

    @property
    def http_address(self) -> str:
        """``host:port``."""
        return self.servers["gateway"].http_address

    @property
    def http_port(self) -> int:
        """Its port alone."""
        return int(self.http_address.rpartition(":")[2])

    def http(self, **options: Any) -> httpx.AsyncClient:
        """A client of the HTTP port."""
        return httpx.AsyncClient(**{"base_url": f"http://{self.http_address}", "timeout": 30, **options})


class FrontDoor(BothPorts):
    """Among neighbours that answer anything."""


@asynccontextmanager
async def front_door(**settings: Any) -> AsyncIterator[FrontDoor]:
    """Everything started, with two adapters; see `BothPorts.open_both`."""
    door = FrontDoor()
    door.open_both(**settings)
    try:
        await door.start_neighbours()
        door.give("one", "two")
        await door.start_gateway()
        yield door
    finally:
        await door.stop()


class Wire:
    """One raw connection to a port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int, *, receives: int = 0) -> Wire:
        """To a port of this machine; `receives`: so many bytes wait for the reader in the kernel, 0 = as it likes."""
        mine = socket.socket()
        mine.setblocking(False)
        if receives:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        await asyncio.get_running_loop().sock_connect(mine, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=mine, limit=receives or 2**16))

    def send(self, data: bytes) -> None:
        """Without waiting."""
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All that still comes, until the other side closes; b"" also when it breaks the connection."""
        got = b""
        async with asyncio.timeout(30):
            try:
                while part := await self.reader.read(2**16):
                    got += part
            except ConnectionError:
                pass
        return got

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one HTTP answer that has a length."""
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def close(self) -> None:
        """Ends the connection."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def post(path: str, body: Mapping[str, Any], **headers: str) -> bytes:
    """The bytes of a request."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data
