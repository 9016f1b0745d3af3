"""An HTTP proxy that answers for the server behind it, as an object store that is overloaded or broken does."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import Self

from aiohttp import ClientError, ClientSession, TCPConnector, web

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})

SLOW_DOWN = (503, "SlowDown", "Please reduce your request rate.")
INTERNAL_ERROR = (500, "InternalError", "We encountered an internal error. Please try again.")


class HttpFaults:
    """Between S3 clients and a server, on loopback.

    Args:
        backend: ``http://host:port``.

    Attributes:
        fault: status, S3 code and message of its own answers; None = it passes everything on.
        share: of the requests that it answers itself: 1 = all, 2 = each second one.
        answered: how many it has answered itself.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.fault: tuple[int, str, str] | None = None
        self.share = 1
        self.answered = 0
        self._turn = itertools.count()
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        self._session = ClientSession(auto_decompress=False, connector=TCPConnector(limit=0))
        application = web.Application(client_max_size=2**30)  # which says 100 Continue to who expects it
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.fault is not None and next(self._turn) % self.share == 0:
            self.answered += 1
            status, code, message = self.fault
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        try:
            async with self._session.request(
                request.method, self._backend + request.raw_path, headers=headers, data=body, allow_redirects=False
            ) as answer:
                told = await answer.read()
        except ClientError:
            return web.Response(status=502)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        if request.method != "HEAD":
            kept.pop("Content-Length", None)
        return web.Response(status=answer.status, body=told if request.method != "HEAD" else None, headers=kept)
