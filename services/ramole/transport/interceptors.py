"""The server's side of every call: identity, deadline, admission, errors, access log and metrics.

One interceptor instead of five: their order matters, and here it can be read from top to bottom.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Never, TypeAlias, cast

import grpc

from ramole.core.call import REQUEST_ID_KEY, CallContext, enter_call
from ramole.core.errors import DeadlineExceeded
from ramole.core.settings import ServerSettings
from ramole.observability.logs import ACCESS_LOGGER
from ramole.observability.metrics import RpcMetrics
from ramole.transport.admission import Admission, Kind
from ramole.transport.errors import to_status
from ramole.transport.identity import principal_from_metadata
from ramole.transport.incoming import Context, Incoming
from ramole.transport.undecodable import decoded, tolerant

# Quoted: the generic parameters exist in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

EXEMPT_PREFIX = "/grpc."
"""Health and reflection must answer while the server starts or drains; their checks also while it is full."""

# A call without a deadline reports a time far in the future instead of None.
_NO_DEADLINE_S = 10 * 365 * 86_400

# Work ends by its own time limits at the deadline, and says what it waited for. What has not ended by then is cut off.
_LAST_WORD_S = 1.0

# How long a call waits for the transport to take its final status, which a client that reads nothing holds up.
_STATUS_S = 1.0

# Streams that are read on after their refusal. Of a flood of them the rest ends at once.
_MAX_READING_ON = 64

# What a client must hear before its own deadline needs a moment to travel.
_MARGIN_S = 0.1
_MARGIN_SHARE = 0.05

_access = logging.getLogger(ACCESS_LOGGER)
_log = logging.getLogger(__name__)


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Brackets every call of the server, apart from health checks.

    Args:
        admission: counts calls and refuses some.
        metrics: receives count, latency and calls in flight.
        settings: how long a client may be silent.
        default_timeout_s: deadline of calls whose client set none; None = no limit.
        kinds: class of the methods that are no plain calls, by their full name. What streams in is a transfer.
    """

    def __init__(
        self,
        admission: Admission,
        metrics: RpcMetrics,
        settings: ServerSettings,
        default_timeout_s: float | None = None,
        kinds: Mapping[str, Kind] | None = None,
    ) -> None:
        self._admission = admission
        self._metrics = metrics
        self._idle_s = settings.idle_s
        self._default_timeout_s = default_timeout_s
        self._kinds = kinds or {}
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
        return _rewrapped(handler, partial(self._bracket, method, kind), self._idle_s)

    @asynccontextmanager
    async def _bracket(
        self, method: str, kind: Kind, context: Context, incoming: Incoming | None
    ) -> AsyncIterator[None]:
        is_exempt, peer = method.startswith(EXEMPT_PREFIX), context.peer()
        call = self._begin(context, has_default=not is_exempt)
        enter_call(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        is_admitted = False
        self._metrics.started(method)
        try:
            self._admission.enter(kind, peer, even_if_closed=is_exempt)
            is_admitted = True
            async with _ended(call):
                yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = _status_code(context)
            raise
        except Exception as error:
            status = to_status(error, call.request_id)
            code = status.code
            if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS):
                _log.exception("%s failed", method, extra={"fields": {"request_id": call.request_id}})
            if incoming is not None and self._reading_on < _MAX_READING_ON:
                self._reading_on += 1
                try:
                    await incoming.read_on()
                finally:
                    self._reading_on -= 1
            await self._tell(context, status)
        finally:
            if is_admitted:
                self._admission.leave(kind, peer)
            seconds = time.perf_counter() - started
            self._metrics.ended(method, code.name, seconds)
            self._log_access(method, code, seconds, call, context)

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

    def _begin(self, context: Context, *, has_default: bool) -> CallContext:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        timeout_s: float | None = context.time_remaining()
        if timeout_s is None or timeout_s > _NO_DEADLINE_S:
            timeout_s = self._default_timeout_s if has_default else None
        else:
            timeout_s -= min(_MARGIN_S, _MARGIN_SHARE * timeout_s)
        return CallContext.begin(metadata.get(REQUEST_ID_KEY), timeout_s, principal_from_metadata(metadata))

    @staticmethod
    def _log_access(method: str, code: grpc.StatusCode, seconds: float, call: CallContext, context: Context) -> None:
        if _access.isEnabledFor(logging.INFO):
            fields = {
                "method": method,
                "code": code.name,
                "seconds": round(seconds, 6),
                "request_id": call.request_id,
                "peer": context.peer(),
            }
            _access.info("call", extra={"fields": fields})


@asynccontextmanager
async def _ended(call: CallContext) -> AsyncIterator[None]:
    """Cuts the block off when the call's deadline has passed, whatever it waits for. Raises DeadlineExceeded then."""
    remaining_s = call.remaining_s()
    timer = asyncio.timeout(None if remaining_s is None else remaining_s + _LAST_WORD_S)
    try:
        async with timer:
            yield
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise DeadlineExceeded("the deadline of the call passed", remedy="give the call more time") from error


def _status_code(context: Context) -> grpc.StatusCode:
    code = cast(Any, context.code())
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _rewrapped(
    handler: Handler, bracket: Callable[[Context, Incoming | None], AbstractAsyncContextManager[None]], idle_s: float
) -> Handler:
    """The same method with `bracket` around it, whatever its cardinality.

    A streaming answer is written by the wrapper itself instead of being yielded: a cancelled call then closes the
    servicer's generator at once, where gRPC would leave that to the garbage collector.
    """
    behaviour = cast(Any, handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream)

    async def answer(request: Any, context: Context) -> Any:
        incoming = Incoming(context, idle_s, is_checked=True) if handler.request_streaming else None
        async with bracket(context, incoming):
            return await behaviour(decoded(request) if incoming is None else incoming.messages(), context)

    async def answer_stream(request: Any, context: Context) -> None:
        incoming = Incoming(context, idle_s, is_checked=False) if handler.request_streaming else None
        async with bracket(context, incoming):
            requests = decoded(request) if incoming is None else incoming.messages()
            if inspect.iscoroutinefunction(behaviour):  # it writes by itself, as gRPC's own health service does
                await behaviour(requests, context)
                return
            async with aclosing(behaviour(requests, context)) as messages:
                async for message in messages:
                    await _written(context, message, idle_s)

    factories = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = factories[handler.request_streaming, handler.response_streaming]
    wrapped = answer_stream if handler.response_streaming else answer
    read = handler.request_deserializer and tolerant(handler.request_deserializer)
    return make(cast(Any, wrapped), read, handler.response_serializer)


async def _written(context: Context, message: Any, idle_s: float) -> None:
    """Raises DeadlineExceeded when the client does not read, so that its stream takes nothing any more."""
    timer = asyncio.timeout(idle_s)
    try:
        async with timer:
            await context.write(message)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the client read nothing for {idle_s:g} s", field="server.idle_s", remedy="read the stream as it comes"
        ) from error
