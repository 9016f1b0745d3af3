"""Error class -> HTTP status, in the shape that OpenAI's clients read; the same errors and remedies as over gRPC."""

from __future__ import annotations

import math
from typing import Any

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
    PermissionDenied,
    RamoleError,
    Unauthenticated,
    Unavailable,
    WrongState,
)

STATUSES: dict[type[RamoleError], int] = {
    Unauthenticated: 401,
    PermissionDenied: 403,
    InvalidInput: 400,
    AdapterRefused: 400,
    WrongState: 400,
    NotFound: 404,
    AlreadyExists: 409,
    Conflict: 409,
    LimitExceeded: 429,
    Cancelled: 499,  # as proxies count calls that were broken off; OpenAI's clients do not repeat it
    Internal: 500,
    Corrupt: 500,
    Unavailable: 503,
    DeadlineExceeded: 504,
}

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_REPEATED = {408, 409, 429}


def status_of(error: RamoleError) -> int:
    """The HTTP status of an error. What is over a limit and stays so is too large, not too early; what the client takes
    too long to send is not our slowness."""
    if isinstance(error, LimitExceeded) and error.retry_after_s is None:
        return 431 if error.field == "headers" else 413
    if isinstance(error, DeadlineExceeded) and error.field in ("headers", "body"):
        return 408
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def body_of(error: RamoleError) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``; `message` ends with the remedy."""
    status = status_of(error)
    remedy = f" ({error.remedy})" if error.remedy else ""
    is_model = status == 404 and error.field == "model"
    return {
        "error": {
            "message": f"{error.message}{remedy}",
            "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": error.field or None,
            "code": "model_not_found" if is_model else None,
        }
    }


def headers_of(error: RamoleError) -> dict[str, str]:
    """When, and whether, to try again: OpenAI's clients repeat 409, 429 and all from 500 on unless told not to."""
    status = status_of(error)
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if status >= 500 or status in _REPEATED:
        headers["x-should-retry"] = "true" if error.retry_after_s is not None and not error.is_final else "false"
    return headers
