"""Error class <-> gRPC status, both ways, so that an error crosses any number of hops unchanged.

The wire form is described at the top of ``protos/ramole/v1/common.proto``.
"""

from __future__ import annotations

import re

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_status import rpc_status

from ramole.core.errors import (
    AdapterRefused,
    AlreadyExists,
    Cancelled,
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    RamoleError,
    Unavailable,
    WrongState,
)
from ramole.transport.context import REQUEST_ID_KEY

DOMAIN = "ramole"

# Status text and details share one block of trailers, and peers may refuse more than 8 KiB of them. The text is sent
# percent-encoded (up to three times its size) and again, in base64, inside the details.
_MAX_MESSAGE_BYTES = 600
_MAX_REMEDY_BYTES = 300
_MAX_FIELD_BYTES = 120


_CODES: dict[type[RamoleError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    AdapterRefused: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.ABORTED,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Cancelled: grpc.StatusCode.CANCELLED,
    Corrupt: grpc.StatusCode.DATA_LOSS,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Internal: grpc.StatusCode.INTERNAL,
}


def _reason(kind: type[RamoleError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()


_BY_REASON = {_reason(kind): kind for kind in _CODES}
_BY_CODE = {code: kind for kind, code in reversed(_CODES.items())}


def _known(error: RamoleError) -> type[RamoleError]:
    return next((kind for kind in type(error).__mro__ if kind in _CODES), Internal)


def _clip(text: str, max_bytes: int) -> str:
    """As much of it as fits. Halves of surrogate pairs, which JSON may hold and no message can, become escapes."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= max_bytes:
        return raw.decode()
    return raw[: max_bytes - 3].decode("utf-8", "ignore") + "..."


def to_status(error: BaseException, request_id: str) -> grpc.Status:
    """The status that tells a client about `error`. Anything but a RamoleError becomes INTERNAL without internals."""
    if not isinstance(error, RamoleError):
        error = Internal(f"internal error, request id {request_id}", remedy="report the request id to the operator")
    kind = _known(error)
    shown = RamoleError(
        _clip(error.message, _MAX_MESSAGE_BYTES),
        field=_clip(error.field, _MAX_FIELD_BYTES),
        remedy=_clip(error.remedy, _MAX_REMEDY_BYTES),
    )
    facts = {"field": shown.field, "remedy": shown.remedy, "request_id": request_id}
    info = ErrorInfo(reason=_reason(kind), domain=DOMAIN, metadata={k: v for k, v in facts.items() if v})
    details = [_packed(info)]
    if shown.field:
        violation = BadRequest.FieldViolation(field=shown.field, description=shown.message)
        details.append(_packed(BadRequest(field_violations=[violation])))
    code: int = _CODES[kind].value[0]
    status: grpc.Status = rpc_status.to_status(Status(code=code, message=str(shown), details=details))
    trailers = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id))
    return status._replace(trailing_metadata=trailers)  # type: ignore[attr-defined, no-any-return]


def _packed(message: ErrorInfo | BadRequest) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def from_rpc_error(error: grpc.aio.AioRpcError, unreachable: str = "") -> RamoleError:
    """The error that the server raised, with its field and remedy; a status of gRPC's own maps by its code.

    Args:
        unreachable: a remedy for a server that cannot be reached, besides the usual one.
    """
    text = error.details() or error.code().name
    info = _error_info(error)
    if info is None:
        kind = _BY_CODE.get(error.code(), Internal)
        remedy = _own_remedy(kind)
        return kind(text, remedy=f"{remedy}; {unreachable}" if unreachable and kind is Unavailable else remedy)
    kind = _BY_REASON.get(info.reason, _BY_CODE.get(error.code(), Internal))
    field, remedy = info.metadata.get("field", ""), info.metadata.get("remedy", "")
    text = text.removeprefix(f"{field}: " if field else "").removesuffix(f" ({remedy})" if remedy else "")
    return kind(text, field=field, remedy=remedy)


def _own_remedy(kind: type[RamoleError]) -> str:
    remedies: dict[type[RamoleError], str] = {
        Unavailable: "check the address and that the server runs, then retry",
        DeadlineExceeded: "give the call more time",
        LimitExceeded: "send less, or retry with back-off",
    }
    return remedies.get(kind, "")


def _error_info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return _parsed_info(value)
    return None


def _parsed_info(raw: bytes) -> ErrorInfo | None:
    """Finds our ErrorInfo among the details. Foreign or broken details are no reason to lose the status itself."""
    from google.protobuf.message import DecodeError

    try:
        for detail in Status.FromString(raw).details:
            info = ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                return info
    except DecodeError:
        return None
    return None
