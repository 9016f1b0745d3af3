"""Requests that are no messages. gRPC would end such a call before any handler, as UNKNOWN and without our details.

So that it ends as every refused call does, the failure takes the request's place until it is inside the bracket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from ramole.core.errors import InvalidInput

_LENGTH_DELIMITED = 2


class Undecodable:
    """Stands for a request that could not be read."""

    def __init__(self, error: InvalidInput) -> None:
        self.error = error


def tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The same deserialiser, a `FromString`, that returns an `Undecodable` where it would raise."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            kind: Descriptor | None = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)
            return Undecodable(_refusal(kind, data))

    return read


def decoded(request: Any) -> Any:
    """The request. Raises InvalidInput when it could not be read."""
    if isinstance(request, Undecodable):
        raise request.error
    return request


def _refusal(kind: Descriptor | None, data: bytes) -> InvalidInput:
    path = "" if kind is None else _bad_text(kind, data)
    if path:
        return InvalidInput("the text is not UTF-8", field=path, remedy="send valid Unicode, as UTF-8")
    name = "message" if kind is None else kind.full_name
    return InvalidInput(f"{len(data)} bytes are no {name}", field="message", remedy="send what the protocol describes")


def _bad_text(kind: Descriptor, data: bytes) -> str:
    """Path of the first text that is not UTF-8; empty if there is none, or the bytes are no message at all."""
    try:
        # Read as a message that knows no fields, all of them are there as they were sent.
        parts: Any = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return ""
    for part in parts:
        field: FieldDescriptor | None = kind.fields_by_number.get(part.field_number)
        if field is None or part.wire_type != _LENGTH_DELIMITED:
            continue
        if field.message_type is not None:
            inner = _bad_text(field.message_type, part.data)
            if inner:
                return f"{field.name}.{inner}"
        elif field.type == FieldDescriptor.TYPE_STRING:
            try:
                part.data.decode()
            except UnicodeDecodeError:
                return field.name
    return ""
