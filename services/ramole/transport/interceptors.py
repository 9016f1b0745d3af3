"""gRPC's side of the bracket around a call: what it knows of the caller, and how the caller hears of an error."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Never, TypeAlias, cast

import grpc

from ramole.core.call import REQUEST_ID_KEY
from ramole.core.errors import Cancelled, DeadlineExceeded, RamoleError
from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import Kind
from ramole.transport.errors import to_status
from ramole.transport.identity import Peer
from ramole.transport.incoming import Context, Incoming
from ramole.transport.stall import StallGuard
from ramole.transport.undecodable import decoded, tolerant

# Quoted: the generic parameters exist in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

EXEMPT_PREFIX = "/grpc."
"""Health and reflection must answer while the server starts or drains; their checks also while it is full."""

# A call without a deadline reports a time far in the future instead of None.
_NO_DEADLINE_S = 10 * 365 * 86_400

# How long a call waits for the transport to take its final status, which a client that reads nothing holds up.
_STATUS_S = 1.0

# Streams that are read on after their refusal. Of a flood of them the rest ends at once.
_MAX_READING_ON = 64


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Puts the bracket around every call of the server, apart from health checks.

    Args:
        bracket: of this server.
        idle_s: how long a client may be silent.
        kinds: class of the methods that are no plain calls, by their full name. What streams in is a transfer.
    """

    def __init__(self, bracket: CallBracket, idle_s: float, kinds: Mapping[str, Kind]) -> None:
        self._bracket = bracket
        self._idle_s = idle_s
        self._kinds = kinds
        self._telling: set[asyncio.Task[Never]] = set()
        self._reading_on = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the method's handler inside the bracket; None for a method that does not exist."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or (method.startswith(EXEMPT_PREFIX) and not handler.response_streaming):
            return handler
        if method.startswith(EXEMPT_PREFIX):
            kind = Kind.WATCH
        else:
            kind = self._kinds.get(method, Kind.TRANSFER if handler.request_streaming else Kind.CALL)
        return _rewrapped(handler, partial(self._around, method, kind), self._idle_s)

    @asynccontextmanager
    async def _around(
        self, method: str, kind: Kind, context: Context, incoming: Incoming | None
    ) -> AsyncIterator[None]:
        is_exempt, peer = method.startswith(EXEMPT_PREFIX), _peer(context)
        call = self._bracket.begin(peer, _timeout_s(context), has_default=not is_exempt)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        try:
            async with self._bracket.around(call, method, kind, peer, even_if_closed=is_exempt):
                yield
        except RamoleError as error:
            if incoming is not None and self._reading_on < _MAX_READING_ON:
                self._reading_on += 1
                try:
                    await incoming.read_on()
                finally:
                    self._reading_on -= 1
            await self._tell(context, to_status(error, call.request_id))

    async def _tell(self, context: Context, status: grpc.Status) -> None:
        """Ends the call with `status`; one whose client reads nothing ends here, and hears it if it ever reads."""
        telling = asyncio.ensure_future(context.abort_with_status(status))
        self._telling.add(telling)
        telling.add_done_callback(self._told)
        await asyncio.wait({telling}, timeout=_STATUS_S)
        if not telling.done():
            raise asyncio.CancelledError
        telling.result()

    def _told(self, telling: asyncio.Task[Never]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled():
            telling.exception()


def _peer(context: Context) -> Peer:
    names = (name.decode("ascii", "backslashreplace") for name in context.peer_identities() or ())
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Peer(context.peer(), tuple(names), metadata)


def _timeout_s(context: Context) -> float | None:
    timeout_s: float | None = context.time_remaining()
    return None if timeout_s is None or timeout_s > _NO_DEADLINE_S else timeout_s


def _rewrapped(
    handler: Handler, bracket: Callable[[Context, Incoming | None], AbstractAsyncContextManager[None]], idle_s: float
) -> Handler:
    """The same method with `bracket` around it, whatever its cardinality. A single request is read inside of it, where
    it is known who asks.

    A streaming answer is written by the wrapper itself instead of being yielded: a cancelled call then closes the
    servicer's generator at once, where gRPC would leave that to the garbage collector.
    """
    behaviour = cast(Any, handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream)

    read = handler.request_deserializer and tolerant(handler.request_deserializer)

    def message(raw: Any) -> Any:
        return decoded(raw if read is None else read(raw))

    async def answer(request: Any, context: Context) -> Any:
        incoming = Incoming(context, idle_s, is_checked=True) if handler.request_streaming else None
        async with bracket(context, incoming):
            return await behaviour(message(request) if incoming is None else incoming.messages(), context)

    async def answer_stream(request: Any, context: Context) -> None:
        incoming = Incoming(context, idle_s, is_checked=False) if handler.request_streaming else None
        async with bracket(context, incoming):
            requests = message(request) if incoming is None else incoming.messages()
            if inspect.iscoroutinefunction(behaviour):  # it writes by itself, as gRPC's own health service does
                await behaviour(requests, context)
                return
            async with aclosing(behaviour(requests, context)) as messages:
                await _written(context, messages, idle_s)

    factories = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = factories[handler.request_streaming, handler.response_streaming]
    wrapped = answer_stream if handler.response_streaming else answer
    return make(cast(Any, wrapped), read if handler.request_streaming else None, handler.response_serializer)


async def _written(context: Context, messages: AsyncIterator[Any], idle_s: float) -> None:
    """Raises DeadlineExceeded when the client does not read, so that its stream takes nothing any more; Cancelled when
    it has gone."""
    unread = DeadlineExceeded(
        f"the client read nothing for {idle_s:g} s", field="server.idle_s", remedy="read the stream as it comes"
    )
    with StallGuard(idle_s, unread) as guard:
        async for message in messages:
            with guard.waiting():
                try:
                    await context.write(message)
                except grpc.aio.InternalError as error:  # all that the library says of a stream that has ended
                    raise Cancelled("the client has gone away") from error
