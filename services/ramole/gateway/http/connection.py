"""One HTTP connection as uvicorn serves it, with what it lacks: limits of the head, of time and of number, for clients
that send or read too slowly or too much, and the names of the client's certificate."""

from __future__ import annotations

import ipaddress
import json
import logging
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ramole.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, RamoleError
from ramole.gateway.http.errors import body_of, headers_of, status_of

PEER = "ramole.peer"
"""Extension of the ASGI scope: ``names`` of the client's certificate; and ``hang_up``, which ends the connection at
once, where nobody is there to be told the rest of an answer."""

# Requests of one connection that wait for the one before; clients that pipeline send a few.
_MAX_PIPELINED = 16

_OFFERS = (b"connection", b"upgrade", b"http2-settings")

# How long a client whose request was answered may go on sending it, so that it hears the answer.
_LINGER_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may cost.

    Attributes:
        max_connections: of the port.
        max_head_bytes: of request line and headers.
        max_headers: how many.
        idle_s: how long a head may take, and how long a client may read nothing.
    """

    max_connections: int
    max_head_bytes: int
    max_headers: int
    idle_s: float


class Connection(HttpToolsProtocol):
    """One connection.

    Args:
        is_draining: whether it should end with the answer to its next request.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, is_draining: Callable[[], bool], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._is_draining = is_draining
        self._names: tuple[str, ...] = ()
        self._is_in_head = self._is_in_message = False
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._refusal: RamoleError | None = None
        self._slow: TimerHandle | None = None
        self._deaf: TimerHandle | None = None

    # What comes from the transport

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self._names = certificate_names(tls.getpeercert()) if tls is not None else ()
        if len(self.connections) > self._limits.max_connections:
            self._refuse(
                LimitExceeded(
                    f"{self._limits.max_connections} connections are open, the most at once",
                    field="gateway.http.max_connections",
                    remedy="retry with back-off",
                    retry_after_s=1.0,
                )
            )
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timers()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Replaces uvicorn's, whose refusals are in no shape that our clients read."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._unparsed_bytes += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._pass_over(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(
                self._refusal
                or InvalidInput("this is no HTTP/1.1 request", field="request", remedy="send one as RFC 9112 says")
            )
            return
        if self._unparsed_bytes > self._limits.max_head_bytes:
            self._refuse(self._too_large())
        elif not self._is_in_message and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        if self._deaf is None:  # whoever writes gives up first, and counts the call as what it is
            self._deaf = self.loop.call_later(self._limits.idle_s + 1.0, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._deaf is not None and not self.transport.is_closing():
            self._deaf.cancel()
            self._deaf = None

    # What comes from the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_in_head = self._is_in_message = True
        self._head_bytes = 0
        self.scope["extensions"] = {PEER: {"names": self._names, "hang_up": self._hang_up}}
        self._await_head()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; behind the body they are counted, and mean nothing."""
        self._count(len(name) + len(value) + 4)
        if not self._is_in_head:
            return
        if len(self.headers) >= self._limits.max_headers:
            self._refusal = LimitExceeded(
                f"more than {self._limits.max_headers} headers", field="headers", remedy="send fewer"
            )
            raise self._refusal
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request has a head."""
        self._unparsed_bytes = 0
        if self.parser.should_upgrade():  # the parser stops here
            return
        self._is_in_head = False
        self._stop_waiting()
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._refusal = LimitExceeded(
                f"more than {_MAX_PIPELINED} requests wait on this connection",
                field="request",
                remedy="send the next when the last is answered",
            )
            raise self._refusal
        super().on_headers_complete()
        if self._is_draining() and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unparsed_bytes = 0
        if self.parser.should_upgrade():
            return
        self._is_in_message = False
        super().on_message_complete()

    # What comes from the server

    def on_response_complete(self) -> None:
        """An answer has been written."""
        is_read = not self._is_in_message or self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._end()
        elif not is_read:  # of what it still sends nothing is kept, but it could go on for ever
            self._stop_waiting()
            self._slow = self.loop.call_later(_LINGER_S, self._end)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        self._end()

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        if self.transport.is_closing():
            self._end()

    def _pass_over(self, rest: bytes) -> None:
        """Serves a request as if it had not offered another protocol (Java's clients do), which the parser would take.

        Args:
            rest: what came behind its head.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refusal = InvalidInput("this is no proxy", field="request", remedy="send requests for this server")
            raise httptools.HttpParserError
        head = [b"%s %s HTTP/1.1" % (method, self.url)]
        head += [b"%s: %s" % header for header in self.headers if header[0] not in _OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"\r\n".join([*head, b"", b""]) + rest)

    def _count(self, num_bytes: int) -> None:
        self._unparsed_bytes = 0
        self._head_bytes += num_bytes
        if self._head_bytes > self._limits.max_head_bytes:
            self._refusal = self._too_large()
            raise self._refusal

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"more than {self._limits.max_head_bytes} bytes", field="headers", remedy="send shorter headers"
        )

    def _await_head(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self._limits.idle_s, self._give_up_on_head)

    def _stop_waiting(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _stop_timers(self) -> None:
        self._stop_waiting()
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None

    def _give_up_on_head(self) -> None:
        self._slow = None
        if not self._is_in_head:  # it has asked for nothing
            self._end()
            return
        self._refuse(
            DeadlineExceeded(
                f"the headers took more than {self._limits.idle_s:g} s", field="headers", remedy="send them at once"
            )
        )

    def _refuse(self, error: RamoleError) -> None:
        """Tells what no request has come of, and ends the connection."""
        _log.debug("a connection is refused: %s", error)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way, and nothing may stand inside of it
            return
        status, body = status_of(error), json.dumps(body_of(error)).encode()
        more = {**headers_of(error), "content-type": "application/json", "content-length": str(len(body))}
        self.transport.write(_head(status, {**more, "connection": "close"}) + body)
        self._end()

    def _hang_up(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()

    def _end(self) -> None:
        """Closes, also where the client does not read what is still to be sent."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        self.transport.close()
        if self._deaf is None:
            self._deaf = self.loop.call_later(self._limits.idle_s, self.transport.abort)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def certificate_names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Its alternative names, or else its common name, as gRPC tells them.

    Args:
        certificate: as `ssl.SSLObject.getpeercert` gives it; None or empty = none was shown.
    """
    if not certificate:
        return ()
    names = tuple(
        str(ipaddress.ip_address(value.strip())) if kind == "IP Address" else str(value)
        for kind, value in certificate.get("subjectAltName", ())
        if kind in ("DNS", "URI", "email", "IP Address")
    )
    subject = (pair for part in certificate.get("subject", ()) for pair in part)
    return names or tuple(value for kind, value in subject if kind == "commonName")
