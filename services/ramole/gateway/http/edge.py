"""One HTTP call inside the bracket that gRPC calls have, and the way its answer is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ramole.core.call import REQUEST_ID_KEY
from ramole.core.errors import Cancelled, DeadlineExceeded, InvalidInput, LimitExceeded, RamoleError
from ramole.gateway.http.answers import as_bytes, event
from ramole.gateway.http.connection import PEER
from ramole.gateway.http.errors import body_of, headers_of, status_of
from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import Kind
from ramole.transport.identity import Peer
from ramole.transport.stall import StallGuard

TIMEOUT_KEY = "x-request-timeout"
"""Header: seconds that the client waits for the whole answer. OpenAI's clients send none."""

ADAPTERS_KEY = "x-ramole-adapters"
"""Header of answers: the versions that were used."""

_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"
_EVENTS = b"text/event-stream; charset=utf-8"

_log = logging.getLogger(__name__)

Work = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """The request as it is read and the answer as it is sent.

    Attributes:
        request: its headers and query; the body is read by `body` or `pieces`, once.
        headers: of the answer; may be added to until it begins.
    """

    def __init__(self, request: Request, send: Send, *, max_body_bytes: int, idle_s: float) -> None:
        self.request = request
        self.headers: dict[str, str] = {}
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._idle_s = idle_s
        self._has_begun = False
        self._is_stream = False

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            LimitExceeded: it is too large; the rest is not read.
            DeadlineExceeded: the client sends nothing.
        """
        body = b""
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > self._max_body_bytes:
                    raise LimitExceeded(
                        f"more than {self._max_body_bytes} bytes", field="body", remedy="send less in one request"
                    )
        return body

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it arrives; the client sends no faster than it is read.

        Raises:
            DeadlineExceeded: the client sends nothing.
            Cancelled: it went away before the end.
        """
        pieces = self.request.stream()
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    piece = await anext(pieces, None)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"the client sent nothing for {self._idle_s:g} s", field="body", remedy="send the body at once"
                ) from error
            except ClientDisconnect as error:
                raise _gone() from error
            if piece is None:
                return
            yield piece

    async def tell(self, data: Any, status: int = 200) -> None:
        """The whole answer, as JSON."""
        raw = as_bytes(data)
        with self._guarded() as guard, guard.waiting():
            await self._begin(status, _JSON, length=len(raw))
            await self._write(raw, is_last=True)

    async def tell_text(self, text: str) -> None:
        """The whole answer, as plain text."""
        raw = text.encode()
        with self._guarded() as guard, guard.waiting():
            await self._begin(200, _TEXT, length=len(raw))
            await self._write(raw, is_last=True)

    async def tell_bytes(self, parts: AsyncGenerator[bytes], kind: str, length: int) -> None:
        """The answer as bytes; where the parts fail, it ends before its length."""
        async with aclosing(parts):
            is_first = True
            with self._guarded() as guard:
                async for data in parts:
                    with guard.waiting():
                        if is_first:
                            await self._begin(200, kind.encode("latin-1"), length=length)
                            is_first = False
                        await self._write(data)
        await self._finish(b"")

    async def tell_events(self, events: AsyncGenerator[bytes]) -> None:
        """The answer as server-sent events; the status is told with the first of them, so that what fails before has
        a status of its own. What fails later becomes the last event."""
        async with aclosing(events):
            with self._guarded() as guard:
                async for data in events:
                    with guard.waiting():
                        if not self._is_stream:
                            self.headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
                            self._is_stream = True
                            await self._begin(200, _EVENTS)
                        await self._write(data)
        await self._finish(b"")

    async def fail(self, error: RamoleError) -> None:
        """Tells an error, as what is still possible."""
        if self._is_stream:
            await self._finish(event(body_of(error)))
        elif not self._has_begun:
            self.headers |= headers_of(error)
            await self.tell(body_of(error), status_of(error))

    async def _begin(self, status: int, kind: bytes, length: int | None = None) -> None:
        self._has_begun = True
        headers = [(b"content-type", kind)]
        headers += [(key.encode("latin-1"), value.encode("latin-1", "replace")) for key, value in self.headers.items()]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self._sent({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        await self._sent({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def _finish(self, data: bytes) -> None:
        with self._guarded() as guard, guard.waiting():
            await self._write(data, is_last=True)

    def _guarded(self) -> StallGuard:
        return StallGuard(
            self._idle_s,
            DeadlineExceeded(f"the client read nothing for {self._idle_s:g} s", remedy="read the answer as it comes"),
        )

    async def _sent(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:
            raise _gone() from error


class Edge:
    """What all calls of the HTTP port share.

    Args:
        bracket: of the public service, the same as that of gRPC's calls.
        max_body_bytes: of a body that is read as a whole.
        idle_s: how long a client may send or read nothing.
    """

    def __init__(self, bracket: CallBracket, *, max_body_bytes: int, idle_s: float) -> None:
        self._bracket = bracket
        self._max_body_bytes = max_body_bytes
        self._idle_s = idle_s

    def call(self, method: str, work: Work, kind: Kind = Kind.CALL) -> Response:
        """The response that does `work` inside the bracket when the framework sends it.

        Args:
            method: of metrics and log, e.g. ``POST /v1/completions``.
        """
        return _Bracketed(self, method, work, kind)

    async def run(self, method: str, work: Work, kind: Kind, request: Request, send: Send) -> None:
        """See `call`."""
        exchange = Exchange(request, send, max_body_bytes=self._max_body_bytes, idle_s=self._idle_s)
        try:
            peer = _peer_of(request)
            # Who watches does so for as long as he likes.
            call = self._bracket.begin(peer, _timeout_of(request), has_default=kind is not Kind.WATCH)
            exchange.headers[REQUEST_ID_KEY] = call.request_id
            async with self._bracket.around(call, method, kind, peer):
                await work(exchange)
        except ClientDisconnect:
            return
        except RamoleError as error:
            try:
                await exchange.fail(error)
            except RamoleError:  # nobody listens
                request.scope["extensions"][PEER]["hang_up"]()


class _Bracketed(Response):
    def __init__(self, edge: Edge, method: str, work: Work, kind: Kind) -> None:
        super().__init__()
        self._edge = edge
        self._method = method
        self._work = work
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._edge.run(self._method, self._work, self._kind, Request(scope, receive), send)


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Ends the block when the client goes away. The body must have been read.

    Raises:
        Cancelled: it has gone.
    """
    task = asyncio.current_task()
    assert task is not None
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        while (await request.receive())["type"] != "http.disconnect":
            continue
        has_gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if has_gone and task.uncancel() == 0:
            raise _gone() from None
        raise
    finally:
        watching.cancel()


def _gone() -> Cancelled:
    return Cancelled("the client has gone away")


def _peer_of(request: Request) -> Peer:
    client = request.client
    address = f"{client.host}:{client.port}" if client else "unknown"
    return Peer(address, request.scope["extensions"][PEER]["names"], dict(request.headers))


def _timeout_of(request: Request) -> float | None:
    text = request.headers.get(TIMEOUT_KEY)
    if text is None:
        return None
    try:
        timeout_s = float(text)
        if 0 < timeout_s < float("inf"):
            return timeout_s
    except ValueError:
        pass
    raise InvalidInput(f"{text[:40]!r} is no time", field=TIMEOUT_KEY, remedy="give seconds, more than 0")
