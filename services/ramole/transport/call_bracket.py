"""What is around every call that a server answers, whatever brought it: gRPC today, HTTP next.

One bracket instead of seven: their order matters, and here it can be read from top to bottom.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import replace

from ramole.core.call import ANONYMOUS, REQUEST_ID_KEY, CallContext, call_scope
from ramole.core.errors import Corrupt, DeadlineExceeded, Internal, RamoleError
from ramole.core.trace import NoTracing, Tracing
from ramole.observability.logs import ACCESS_LOGGER
from ramole.observability.metrics import RpcMetrics
from ramole.transport.call_limit import CallLimit, Kind
from ramole.transport.errors import code_of
from ramole.transport.identity import Identify, Peer
from ramole.transport.running import RunningCalls

# Work ends by its own time limits at the deadline, and says what it waited for. What has not ended by then is cut off.
_LAST_WORD_S = 1.0

# What a client must hear before its own deadline needs a moment to travel.
_MARGIN_S = 0.1
_MARGIN_SHARE = 0.05

_access = logging.getLogger(ACCESS_LOGGER)
_log = logging.getLogger(__name__)


class CallBracket:
    """Request id, deadline, principal, limit, trace, errors, metrics and access log of the calls of one server.

    A transport asks for a context first, so that it can tell the request id whatever comes of the call, and then works
    inside the bracket::

        call = bracket.begin(peer, timeout_s)
        try:
            async with bracket.around(call, method, Kind.CALL, peer):
                ...
        except RamoleError as error:
            ...  # tell the client

    Args:
        limit: counts calls and refuses some.
        metrics: receives count, latency and calls in flight.
        identify: finds out who asks.
        default_timeout_s: deadline of calls whose client set none; None = no limit.
        tracing: decides which calls are traced. Those that were refused a place or a name never are.

    Attributes:
        running: the calls inside, but for those that are answered even if the server is closed.
    """

    def __init__(
        self,
        limit: CallLimit,
        metrics: RpcMetrics,
        identify: Identify,
        default_timeout_s: float | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._limit = limit
        self._metrics = metrics
        self._identify = identify
        self._default_timeout_s = default_timeout_s
        self._tracing = tracing or NoTracing()
        self.running = RunningCalls()

    def check_open(self) -> None:
        """Raises Unavailable while the server starts or drains."""
        self._limit.check_open()

    def begin(self, peer: Peer, timeout_s: float | None, *, has_default: bool = True) -> CallContext:
        """The context of a call that has just come in.

        Args:
            timeout_s: as the client set it; None = it set none.
            has_default: whether the server's own limit holds then.
        """
        if timeout_s is not None:
            timeout_s -= min(_MARGIN_S, _MARGIN_SHARE * timeout_s)
        elif has_default:
            timeout_s = self._default_timeout_s
        return CallContext.begin(peer.metadata.get(REQUEST_ID_KEY), timeout_s)

    @asynccontextmanager
    async def around(
        self, call: CallContext, method: str, kind: Kind, peer: Peer, *, even_if_closed: bool = False
    ) -> AsyncIterator[None]:
        """The call is current inside, with its principal, holds a place of its class, and is cut off when its deadline
        has passed.

        Args:
            method: a registered one, never what a client made up: it becomes a label.
            even_if_closed: for what must answer while the server starts or drains, whoever asks.

        Raises:
            RamoleError: whatever is raised inside becomes one; those that tell of a defect are logged with their
                traceback.
            asyncio.CancelledError: the client has gone away.
        """
        started = time.monotonic()
        code = "OK"
        self._metrics.started(method)
        with ExitStack() as scopes:
            scopes.enter_context(call_scope(call))
            try:
                principal = ANONYMOUS if even_if_closed else self._identify(peer)
                self._limit.enter(kind, peer.address, even_if_closed=even_if_closed)
                try:
                    call = replace(call, principal=principal)
                    if not even_if_closed:
                        call = self._traced(call, method, peer, started)
                    scopes.enter_context(call_scope(call))
                    with nullcontext() if even_if_closed else self.running.counted():
                        async with _ended(call):
                            yield
                finally:
                    self._limit.leave(kind, peer.address)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as raised:
                error = _ours(raised, call)
                code = code_of(error).name
                if isinstance(error, Internal | Corrupt):
                    _log.exception("%s failed", method)
                if error is raised:
                    raise
                raise error from raised
            finally:
                ended = time.monotonic()
                self._metrics.ended(method, code, ended - started)
                call.trace.end(code, ended)
                fields = {"method": method, "code": code, "seconds": round(ended - started, 6), "peer": peer.address}
                _access.info("call", extra={"fields": fields})

    def _traced(self, call: CallContext, method: str, peer: Peer, since_s: float) -> CallContext:
        trace = self._tracing.begin(
            method, peer.metadata, tenant=call.principal.tenant, request_id=call.request_id, since_s=since_s
        )
        return replace(call, trace=trace)


def _ours(raised: Exception, call: CallContext) -> RamoleError:
    """What a client may hear of it: nothing of what is inside."""
    if isinstance(raised, RamoleError):
        return raised
    return Internal(f"internal error, request id {call.request_id}", remedy="report the request id to the operator")


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
