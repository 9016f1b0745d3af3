"""Error class <-> gRPC status, both ways, so that an error crosses any number of hops unchanged.

The wire form is described at the top of ``protos/ramole/v1/common.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from ramole.core.call import REQUEST_ID_KEY
from ramole.core.errors import (
    AdapterRefused,
    AlreadyExists,
    Cancelled,
    Conflict,
    Corrupt,
    DeadlineExceeded,
    EncoderMismatch,
    ExpertUnavailable,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    RamoleError,
    Unauthenticated,
    Unavailable,
    WrongState,
)

DOMAIN = "ramole"
_FINAL = "final"

# Status text and details share one block of trailers, and peers may refuse more than 8 KiB of them. The text is sent
# percent-encoded (up to three times its size) and again, in base64, inside the details.
_MAX_MESSAGE_BYTES = 600
_MAX_REMEDY_BYTES = 300
_MAX_FIELD_BYTES = 120


CODES: dict[type[RamoleError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    AdapterRefused: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    EncoderMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    ExpertUnavailable: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.ABORTED,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Cancelled: grpc.StatusCode.CANCELLED,
    Corrupt: grpc.StatusCode.DATA_LOSS,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Internal: grpc.StatusCode.INTERNAL,
}


_BY_REASON = {kind.reason(): kind for kind in CODES}
_BY_CODE = {code: kind for kind, code in reversed(CODES.items())}


def kind_of(error: RamoleError) -> type[RamoleError]:
    """The class by which an error goes over the wire."""
    return next((kind for kind in type(error).__mro__ if kind in CODES), Internal)


def kind_named(reason: str, code: grpc.StatusCode) -> type[RamoleError]:
    """The inverse: by its reason, else by the code."""
    return _BY_REASON.get(reason, _BY_CODE.get(code, Internal))


def code_of(error: RamoleError) -> grpc.StatusCode:
    """The status code of an error on the wire, in the access log, in metrics; that of an expert is its problem's."""
    return CODES[error.problem if isinstance(error, ExpertUnavailable) else kind_of(error)]


def shown(error: RamoleError) -> RamoleError:
    """Its words, as much of them as goes over the wire."""
    return RamoleError(
        _clip(error.message, _MAX_MESSAGE_BYTES),
        field=_clip(error.field, _MAX_FIELD_BYTES),
        remedy=_clip(error.remedy, _MAX_REMEDY_BYTES),
    )


def _clip(text: str, max_bytes: int) -> str:
    """As much of it as fits. Halves of surrogate pairs, which JSON may hold and no message can, become escapes."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= max_bytes:
        return raw.decode()
    return raw[: max_bytes - 3].decode("utf-8", "ignore") + "..."


def to_status(error: RamoleError, request_id: str) -> grpc.Status:
    """The status that tells a client about `error`."""
    from grpc_status import rpc_status  # only servers have it

    told = shown(error)
    facts = {"field": told.field, "remedy": told.remedy, "request_id": request_id, **error.facts()}
    facts |= {_FINAL: "true"} if error.is_final else {}
    info = ErrorInfo(reason=kind_of(error).reason(), domain=DOMAIN, metadata={k: v for k, v in facts.items() if v})
    details = [_packed(info)]
    if told.field:
        violation = BadRequest.FieldViolation(field=told.field, description=told.message)
        details.append(_packed(BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=error.retry_after_s))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    code: int = code_of(error).value[0]
    status: grpc.Status = rpc_status.to_status(Status(code=code, message=str(told), details=details))
    trailers = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id))
    return status._replace(trailing_metadata=trailers)  # type: ignore[attr-defined, no-any-return]


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def from_rpc_error(error: grpc.aio.AioRpcError, part: str = "", *, unreachable: str = "") -> RamoleError:
    """The error that the server raised, with its field, its remedy and its word on retries.

    Args:
        part: name of the internal service that was called. What gRPC itself says about the connection to it, with
            addresses in it, is then left out. '' = the server that the caller named himself.
        unreachable: a remedy for a server that cannot be reached, besides the usual one.
    """
    details = list(_details(error))
    info = next((info for info in details if isinstance(info, ErrorInfo)), None)
    if info is None:
        return _of_connection(error, part, unreachable)
    kind = kind_named(info.reason, error.code())
    field, remedy = info.metadata.get("field", ""), info.metadata.get("remedy", "")
    text = error.details() or error.code().name
    text = text.removeprefix(f"{field}: " if field else "").removesuffix(f" ({remedy})" if remedy else "")
    raised = kind(text, field=field, remedy=remedy)
    try:
        raised.take(info.metadata)
    except (KeyError, ValueError):  # of a server that says it otherwise
        raised = Internal(text, field=field, remedy=remedy)
    delays = [retry.retry_delay.ToTimedelta().total_seconds() for retry in details if isinstance(retry, RetryInfo)]
    raised.retry_after_s = delays[0] if delays else None
    raised.is_final = _FINAL in info.metadata
    return raised


def is_of_connection(error: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC itself failed the call, and no service of ours."""
    return not any(isinstance(detail, ErrorInfo) for detail in _details(error))


def _of_connection(error: grpc.aio.AioRpcError, part: str, unreachable: str) -> RamoleError:
    code = error.code()
    kind = _BY_CODE.get(code, Internal)
    if not part or kind is LimitExceeded:  # of a message, and it names its size
        remedies = (_REMEDIES.get(kind, ""), unreachable if kind is Unavailable else "")
        return kind(error.details() or code.name, remedy="; ".join(filter(None, remedies)))
    if kind is Unavailable:
        return kind(f"{part} is not reachable", remedy="retry with back-off")
    if kind is DeadlineExceeded:
        return kind(f"{part} did not answer in time", remedy=_REMEDIES[kind])
    return kind(f"the call to {part} ended with {code.name}", remedy="report the request id to the operator")


_REMEDIES: dict[type[RamoleError], str] = {
    Unavailable: "check the address and that the server runs, then retry",
    DeadlineExceeded: "give the call more time",
    LimitExceeded: "send less, or retry with back-off",
}


def _details(error: grpc.aio.AioRpcError) -> Iterator[ErrorInfo | RetryInfo]:
    """Our ErrorInfo and what may stand beside it. Foreign or broken details are no reason to lose the status itself."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with suppress(DecodeError):
                for detail in Status.FromString(value).details:
                    info, retry = ErrorInfo(), RetryInfo()
                    if detail.Unpack(info) and info.domain == DOMAIN:
                        yield info
                    elif detail.Unpack(retry):
                        yield retry
