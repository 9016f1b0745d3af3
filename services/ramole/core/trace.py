"""Spans of a call, as its own work sees them: whoever works writes them, `observability.tracing` keeps them, or nobody.

Times are seconds on the clock of `time.monotonic`. Attributes are numbers and words of ours: what clients write, such
as prompts and keys, never becomes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

Kind: TypeAlias = Literal["internal", "server", "client"]
Value: TypeAlias = str | int | float


class Trace:
    """One span, and what is inside of it. This one keeps nothing, which costs as little.

    Attributes:
        trace_id: 32 hexadecimal digits; '' = none.
        is_kept: whether anybody reads it; to be asked before work that is done for it alone.
        began_s: when the span began.
    """

    trace_id: str = ""
    is_kept: bool = False
    began_s: float = 0.0

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Goes with a call to another service, whose spans then are inside of this one."""
        return ()

    def begin(
        self,
        name: str,
        attributes: Mapping[str, Value] | None = None,
        *,
        kind: Kind = "internal",
        since_s: float | None = None,
    ) -> Trace:
        """A span inside of this one, to be ended by `end`; `since_s`: None = now."""
        return self

    def end(self, code: str = "OK", at_s: float | None = None) -> None:
        """It is over, by the name of its status code or error; never with a message, which may quote a client."""

    def note(self, name: str, since_s: float, until_s: float, attributes: Mapping[str, Value] | None = None) -> None:
        """A span inside of this one that was over when it was heard of. From any thread."""
        self.begin(name, attributes, since_s=since_s).end(at_s=until_s)


NO_TRACE = Trace()


class Tracing(Protocol):
    """What one service makes of the calls that come to it."""

    def begin(self, method: str, metadata: Mapping[str, str], *, tenant: str, request_id: str, since_s: float) -> Trace:
        """The span of a call, if it is traced.

        Args:
            method: ``/ramole.v1.Gateway/Generate`` or ``POST /v1/completions``.
            metadata: of the call, keys in small letters.
            tenant: who asks.
        """

    def close(self) -> None:
        """Sends what is left; blocks for some seconds at most."""


class NoTracing:
    """Traces nothing."""

    def begin(self, method: str, metadata: Mapping[str, str], *, tenant: str, request_id: str, since_s: float) -> Trace:
        """No span."""
        return NO_TRACE

    def close(self) -> None:
        """There is nothing to send."""
