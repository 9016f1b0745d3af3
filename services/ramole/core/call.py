"""What travels with a call through every hop: its request id, the moment it must have ended, who asks, its trace."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from ramole.core.trace import NO_TRACE, Trace, Value

REQUEST_ID_KEY = "x-request-id"

USER, PUBLISHER, ADMIN = ROLES = ("user", "publisher", "admin")
"""Who generates; who changes the adapters of its tenant as well; who acts for every tenant. See `core/access.py`."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        tenant: whose adapters an unqualified name means, and who may see those that are not public.
        name: the person or program, for the audit log: of its key or certificate, else the address it calls from.
        roles: what it may do beyond reading and writing what is its tenant's.
    """

    tenant: str
    name: str = ""
    roles: frozenset[str] = frozenset()


ANONYMOUS = Principal("default", roles=frozenset({ADMIN}))
"""Who asks when nothing tells: every caller of a server that knows no keys, and what a server does of its own accord.

May do everything; this is the one place that leaves a server without keys open.
"""


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call as its handlers see it.

    Attributes:
        request_id: given by the client or made up at the edge; the same on every hop.
        deadline: on the clock of `time.monotonic`; None = no limit.
        principal: who asks; found out at the edge, believed by the services behind it.
        trace: the span that its work is inside of.
    """

    request_id: str
    deadline: float | None = None
    principal: Principal = ANONYMOUS
    trace: Trace = NO_TRACE

    @classmethod
    def begin(
        cls, request_id: str | None = None, timeout_s: float | None = None, principal: Principal = ANONYMOUS
    ) -> CallContext:
        """A context that starts now. An absent or unsafe id is replaced by a new one."""
        if request_id is None or not _SAFE_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        return cls(request_id, None if timeout_s is None else time.monotonic() + timeout_s, principal)

    def remaining_s(self) -> float | None:
        """Seconds left, never below 0; None = no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def budget_s(self, limit_s: float | None) -> float | None:
        """The smaller of what is left and `limit_s`."""
        limits = [limit for limit in (self.remaining_s(), limit_s) if limit is not None]
        return min(limits, default=None)


_current: ContextVar[CallContext | None] = ContextVar("ramole_call", default=None)


def current_call() -> CallContext:
    """The call that this task works for; outside of any call a new one without a deadline."""
    return _current.get() or CallContext.begin()


def entered_call() -> CallContext | None:
    """The call that this task works for; None outside of any call."""
    return _current.get()


@contextmanager
def call_scope(call: CallContext) -> Iterator[CallContext]:
    """Makes `call` current inside the block, e.g. to finish an upload on a time budget of its own."""
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


@contextmanager
def traced(name: str, **attributes: Value) -> Iterator[None]:
    """The block is a span of the current call, and what it calls is inside of it. Not around a `yield`: what is current
    there is the caller's."""
    call = entered_call()
    if call is None or not call.trace.is_kept:
        yield
        return
    trace, code = call.trace.begin(name, attributes), "OK"
    try:
        with call_scope(replace(call, trace=trace)):
            yield
    except BaseException as error:
        code = type(error).__name__
        raise
    finally:
        trace.end(code)
