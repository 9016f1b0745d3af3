"""The one error tree. `transport` maps each class to one gRPC status; nothing else decides status codes.

RamoleError
├── InvalidInput              INVALID_ARGUMENT      the request itself is wrong, whatever the state of the server
│   └── AdapterRefused        INVALID_ARGUMENT      an uploaded adapter failed admission
├── Unauthenticated           UNAUTHENTICATED       no key, or none that is known here
├── PermissionDenied          PERMISSION_DENIED     the caller may not do this, whatever the state of the server
├── NotFound                  NOT_FOUND             an adapter, version or digest that does not exist
├── AlreadyExists             ALREADY_EXISTS        the name or idempotency key is taken by other content
├── WrongState                FAILED_PRECONDITION   valid, but not here: another base model, a revoked adapter
│   ├── EncoderMismatch       FAILED_PRECONDITION   vectors of an encoder that is not loaded, or not the index's
│   └── ExpertUnavailable     its problem's own     an executor cannot use one expert of a request
├── Conflict                  ABORTED               compare-and-swap lost; read again and retry
├── LimitExceeded             RESOURCE_EXHAUSTED    too large, too many, or too busy
├── Unavailable               UNAVAILABLE           a dependency is down; a retry may succeed
├── Cancelled                 CANCELLED             the work was aborted on purpose (revoke, shutdown)
├── DeadlineExceeded          DEADLINE_EXCEEDED     the deadline of the call passed
├── Corrupt                   DATA_LOSS             stored bytes no longer match their digest
└── Internal                  INTERNAL              a defect; the server's log knows more, under the request id
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Self


class RamoleError(Exception):
    """Root of all errors that a client may see.

    Args:
        message: what is wrong, in one sentence, naming the offending value.
        field: path of the request field or setting at fault, for example ``composition.k``; empty if none.
        remedy: what the caller can do about it; empty if nothing.
        retry_after_s: the same request, unchanged, may succeed after so many seconds; None = it should not be repeated.

    Attributes:
        is_final: a second try has failed or would be wrong, so that no layer on the way back tries once more.
    """

    default_retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, *, field: str = "", remedy: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.is_final = False

    @classmethod
    def reason(cls) -> str:
        """What the class is called on the wire: its name in UPPER_SNAKE_CASE."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    def facts(self) -> dict[str, str]:
        """What a class knows beyond message, field and remedy, for the wire."""
        return {}

    def take(self, facts: Mapping[str, str]) -> None:
        """The inverse of `facts`, where the error arrives.

        Raises:
            KeyError, ValueError: something is missing or wrong there.
        """

    def at(self, field: str) -> Self:
        """The same error, about another field."""
        error = type(self)(self.message, field=field, remedy=self.remedy).because(self.__cause__)
        error.take(self.facts())
        error.retry_after_s, error.is_final = self.retry_after_s, self.is_final
        return error

    def because(self, cause: BaseException | None) -> Self:
        """The same error with what it came from, for the log."""
        self.__cause__ = cause
        return self

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        cure = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{self.message}{cure}"


class InvalidInput(RamoleError):
    """The request is wrong whatever the state of the server."""


class AdapterRefused(InvalidInput):
    """An uploaded adapter failed admission; nothing of it was kept."""


class Unauthenticated(RamoleError):
    """No key, or none that is known here."""


class PermissionDenied(RamoleError):
    """The caller may not do this: it concerns another tenant, or all of them."""


class NotFound(RamoleError):
    """The named thing does not exist, or the caller may not see it."""


class AlreadyExists(RamoleError):
    """The name or key already stands for other content."""


class WrongState(RamoleError):
    """The request is valid but does not fit this server, for example an adapter of another base model."""


class EncoderMismatch(WrongState):
    """The encoder that was asked for is not loaded, or the index holds vectors of another one."""


class Conflict(RamoleError):
    """A compare-and-swap lost against another writer."""


class LimitExceeded(RamoleError):
    """A size, count or concurrency limit was hit."""


class Unavailable(RamoleError):
    """A dependency is down or still starting."""

    default_retry_after_s = 1.0


class Cancelled(RamoleError):
    """The work was aborted on purpose."""


class DeadlineExceeded(RamoleError):
    """The deadline of the call passed."""


class Corrupt(RamoleError):
    """Stored bytes no longer match their digest."""


class ExpertUnavailable(WrongState):
    """An executor cannot use one expert of a request. Between executor and gateway only.

    Attributes:
        expert: its place in the request, from 0.
        problem: what class of error it is, one of `PROBLEMS`, when it is told of the adapter itself.
    """

    PROBLEMS: ClassVar[tuple[type[RamoleError], ...]] = (NotFound, Corrupt, AdapterRefused, WrongState)

    expert: int = 0
    problem: type[RamoleError] = WrongState

    @classmethod
    def of(cls, error: RamoleError, expert: int) -> RamoleError:
        """The error of an adapter as that of a request's expert. One that says nothing about the adapter stays."""
        field = f"experts[{expert}]"
        problem = next((kind for kind in cls.PROBLEMS if isinstance(error, kind)), None)
        if problem is None:
            return error.at(field)
        raised = cls(error.message, field=field, remedy=error.remedy).because(error)
        raised.expert, raised.problem = expert, problem
        return raised

    def of_adapter(self, field: str = "") -> RamoleError:
        """The error of the adapter itself; `field` is where the request named it."""
        return self.problem(self.message, field=field, remedy=self.remedy).because(self)

    def facts(self) -> dict[str, str]:
        """See `RamoleError.facts`."""
        return {"expert": str(self.expert), "problem": self.problem.reason()}

    def take(self, facts: Mapping[str, str]) -> None:
        """See `RamoleError.take`."""
        problems = {kind.reason(): kind for kind in self.PROBLEMS}
        self.expert, self.problem = int(facts["expert"]), problems[facts["problem"]]


class Internal(RamoleError):
    """A server failed in a way that it does not explain; its log does, under the request id."""


def own_fault(error: Exception, message: str) -> RamoleError:
    """What the caller hears of an exception in the work for one request; the log hears the rest, through the cause."""
    return error if isinstance(error, RamoleError) else Internal(message).because(error)


_OF_MACHINES = (RamoleError, OSError, RuntimeError, MemoryError, ImportError, ArithmeticError)


def told(error: BaseException) -> str:
    """What a log or a message may say of an exception: its class and, unless it may quote what users sent, its text.

    Errors of data quote data: a `KeyError` its key, pydantic and protobuf the value that does not fit, a template
    whatever it was given. Those of the machine, of torch and of files do not, and are what an operator needs.
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", __name__) else f"{kind.__module__}.{kind.__qualname__}"
    if not isinstance(error, _OF_MACHINES):
        return f"{name} (its text may quote a request, and is left out)"
    return f"{name}: {error}"
