"""An error beside other answers in one stream: what its status would say of it if it were alone."""

from __future__ import annotations

import grpc

from ramole.core.errors import RamoleError
from ramole.transport.errors import code_of, kind_named, kind_of, shown
from ramole.v1.gateway_pb2 import Failure


def failure_to_pb(error: RamoleError) -> Failure:
    """An error, for the wire."""
    told = shown(error)
    return Failure(
        code=code_of(error).value[0],
        reason=kind_of(error).reason(),
        message=told.message,
        field=told.field,
        remedy=told.remedy,
        retry_after_s=error.retry_after_s,
    )


def failure_from_pb(failure: Failure) -> RamoleError:
    """The error that the server met. A reason that is unknown here counts as its code says."""
    code = next((code for code in grpc.StatusCode if code.value[0] == failure.code), grpc.StatusCode.INTERNAL)
    error = kind_named(failure.reason, code)(failure.message, field=failure.field, remedy=failure.remedy)
    error.retry_after_s = failure.retry_after_s if failure.HasField("retry_after_s") else None
    return error
