"""The server's side of every call: identity, deadline, admission, errors, access log and metrics.

One interceptor instead of five: their order matters, and here it can be read from top to bottom.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeAlias, cast

import grpc

from ramole.core.errors import Cancelled, LimitExceeded, Unavailable
from ramole.observability.logs import ACCESS_LOGGER
from ramole.observability.metrics import RpcMetrics
from ramole.transport.context import CALLER_KEY, REQUEST_ID_KEY, CallContext, enter_call
from ramole.transport.errors import from_rpc_error, to_status
from ramole.transport.undecodable import decoded, tolerant

# Quoted: the generic parameters exist in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

EXEMPT_PREFIX = "/grpc."
"""Health and reflection must answer while the server starts, is full or drains."""

# A call without a deadline reports a time far in the future instead of None.
_NO_DEADLINE_S = 10 * 365 * 86_400

# How long a refused upload may go on, so that its client hears why it was refused.
_READ_ON_S = 10.0

_access = logging.getLogger(ACCESS_LOGGER)
_log = logging.getLogger(__name__)


class Admission:
    """Whether this server takes one more call.

    Args:
        max_inflight: calls at once; the next one is refused with LimitExceeded.
    """

    def __init__(self, max_inflight: int) -> None:
        self._max_inflight = max_inflight
        self.inflight = 0
        self.is_open = False

    def enter(self) -> None:
        """Counts a call in. Raises Unavailable while closed, LimitExceeded when full."""
        if not self.is_open:
            raise Unavailable("the server is starting or stopping", remedy="retry with back-off")
        if self.inflight >= self._max_inflight:
            raise LimitExceeded(f"{self.inflight} calls are in flight already", remedy="retry with back-off")
        self.inflight += 1

    def leave(self) -> None:
        """Counts an admitted call out."""
        self.inflight -= 1


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Brackets every call of the server's own services.

    Args:
        admission: counts calls and refuses some.
        metrics: receives count, latency and calls in flight.
        default_timeout_s: deadline of calls whose client set none; None = no limit.
    """

    def __init__(self, admission: Admission, metrics: RpcMetrics, default_timeout_s: float | None = None) -> None:
        self._admission = admission
        self._metrics = metrics
        self._default_timeout_s = default_timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the method's handler inside the bracket; None for a method that does not exist."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(EXEMPT_PREFIX):
            return handler
        return _rewrapped(handler, lambda context: self._bracket(method, context, handler.request_streaming))

    @asynccontextmanager
    async def _bracket(self, method: str, context: Context, is_upload: bool) -> AsyncIterator[None]:
        call = self._begin(context)
        enter_call(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        is_admitted = False
        self._metrics.started(method)
        try:
            self._admission.enter()
            is_admitted = True
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = _status_code(context)
            raise
        except Exception as error:
            shown = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
            status = to_status(shown, call.request_id)
            code = status.code
            if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS):
                _log.exception("%s failed", method, extra={"fields": {"request_id": call.request_id}})
            if is_upload:
                await _read_on(context)
            await context.abort_with_status(status)
        finally:
            if is_admitted:
                self._admission.leave()
            seconds = time.perf_counter() - started
            self._metrics.ended(method, code.name, seconds)
            self._log_access(method, code, seconds, call, context)

    def _begin(self, context: Context) -> CallContext:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        remaining = context.time_remaining()
        timeout_s = self._default_timeout_s if remaining is None or remaining > _NO_DEADLINE_S else remaining
        return CallContext.begin(metadata.get(REQUEST_ID_KEY), timeout_s, metadata.get(CALLER_KEY, ""))

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


async def _unbroken(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
    """The same messages, but a stream that broke ends with Cancelled.

    grpc.aio ends the iteration of a cancelled or disconnected stream as it ends that of a complete one, before it
    cancels the handler: half an upload would look like a whole one. Only a stream that still lives takes the headers.
    """
    async for request in requests:
        yield decoded(request)
    try:
        await context.send_initial_metadata(())
    except Exception as error:
        raise Cancelled("the client went away before the end of its stream") from error


async def _read_on(context: Context) -> None:
    """Discards what a refused client still sends.

    A client written with grpc.aio loses the status of a call that ends while it writes, and reports INTERNAL instead.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_READ_ON_S):
            while await context.read() is not grpc.aio.EOF:
                pass


def _status_code(context: Context) -> grpc.StatusCode:
    code = cast(Any, context.code())
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _rewrapped(handler: Handler, bracket: Callable[[Context], Any]) -> Handler:
    """The same method with `bracket` around it, whatever its cardinality.

    A streaming answer is written by the wrapper itself instead of being yielded: a cancelled call then closes the
    servicer's generator at once, where gRPC would leave that to the garbage collector.
    """
    behaviour = cast(Any, handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream)

    async def answer(request: Any, context: Context) -> Any:
        async with bracket(context):
            requests = _unbroken(request, context) if handler.request_streaming else decoded(request)
            return await behaviour(requests, context)

    async def answer_stream(request: Any, context: Context) -> None:
        async with bracket(context), aclosing(behaviour(decoded(request), context)) as messages:
            async for message in messages:
                await context.write(message)

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
