"""The table of everything that a call may end with. tests/contract/gateway/test_statuses.py provokes each row."""

from __future__ import annotations

from dataclasses import dataclass

from ramole.core import errors
from ramole.core.errors import RamoleError
from ramole.transport.errors import code_of


@dataclass(frozen=True)
class Row:
    """One way to end.

    Attributes:
        kind: over gRPC its reason.
        http: status over HTTP.
        when: it happens.
        remedy: what to do, where the error itself says nothing better.
    """

    kind: type[RamoleError]
    http: int
    when: str
    remedy: str

    @property
    def key(self) -> tuple[str, int]:
        """Reason and HTTP status: different in each row."""
        return self.kind.reason(), self.http


ROWS = (
    Row(errors.InvalidInput, 400, "the request itself is wrong, or holds what this server does not do", "mend `field`"),
    Row(errors.AdapterRefused, 400, "an adapter did not pass admission", "export it again as the message says"),
    Row(errors.WrongState, 400, "the request does not fit this server or the state of an adapter", "see the message"),
    Row(errors.EncoderMismatch, 400, "the index holds vectors of another encoder", "`ramole reindex`"),
    Row(errors.Unauthenticated, 401, "no key came along, or none that is known", "send `authorization: Bearer KEY`"),
    Row(errors.PermissionDenied, 403, "the key's tenant or role may not do this", "use another key"),
    Row(errors.NotFound, 404, "no such adapter, version or path, or not for this caller", "list what there is"),
    Row(errors.DeadlineExceeded, 408, "the client was too slow to send its request", "send it at once"),
    Row(errors.AlreadyExists, 409, "the name or the idempotency key stands for other content", "use another"),
    Row(errors.Conflict, 409, "somebody else was faster: the version is not the expected one", "read it, try again"),
    Row(errors.LimitExceeded, 413, "it is larger than this server takes", "send less, or have the limit raised"),
    Row(errors.LimitExceeded, 429, "too much at once or in this minute", "wait for `retry-after`"),
    Row(errors.LimitExceeded, 431, "the headers are too long or too many", "send fewer"),
    Row(errors.Cancelled, 499, "broken off: an adapter was revoked, or the server stops", "see the message"),
    Row(errors.Internal, 500, "a defect; the log has more under the request id", "report the request id"),
    Row(errors.Corrupt, 500, "stored bytes no longer match their digest", "restore or upload the adapter again"),
    Row(errors.Unavailable, 503, "something behind the gateway is down or still starts", "wait for `retry-after`"),
    Row(errors.DeadlineExceeded, 504, "the call's own time is up; the message says what was slow", "give it more time"),
)


def statuses_page() -> str:
    """All rows, by HTTP status."""
    lines = [
        "# Errors",
        "",
        "Made from `docs/statuses.py`; a test provokes each row. Over gRPC a call ends with the code, and `ErrorInfo`",
        "holds the reason, the field at fault, a remedy and the request id. Over HTTP the body is OpenAI's `error`:",
        "`message`, which ends with the remedy, `param`, the field, and `type`. `x-request-id` is there on both.",
        "",
        "`retry-after` (over gRPC `RetryInfo`) is there when the same request may succeed later; `x-should-retry` says",
        "so to OpenAI's clients.",
        "",
        "| gRPC code | HTTP | reason | when | what to do |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        code = code_of(row.kind("")).name
        lines.append(f"| `{code}` | {row.http} | `{row.kind.reason()}` | {row.when} | {row.remedy} |")
    return "\n".join([*lines, ""])
