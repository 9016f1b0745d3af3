"""Messages as JSON: names as in the protocol, and numbers as numbers: protobuf writes those of 64 bits as text."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from ramole.gateway.http.answers import Json

_MAX_EXACT = 2**53 - 1
"""Beyond it JavaScript's numbers are rounded; larger ones stay text."""

_LONG = frozenset(
    {
        FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64,
    }
)  # fmt: skip


def as_json(message: Message, *, has_defaults: bool = True) -> Json:
    """The message.

    Args:
        has_defaults: whether fields that hold what they hold anyway are told too; those that say by their absence that
            something is not known are never.
    """
    raw: Json = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=has_defaults
    )
    _mend(message, raw)
    return raw


def _mend(message: Message, raw: Json) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name not in raw:
            continue
        if field.type in _LONG:
            raw[field.name] = _of_numbers(raw[field.name])
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            value = getattr(message, field.name)
            inner = zip(value, raw[field.name], strict=True) if field.is_repeated else [(value, raw[field.name])]
            for one, its in inner:
                if isinstance(its, dict):  # a time is a text
                    _mend(one, its)


def _of_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_of_numbers(each) for each in value]
    number = int(value)
    return number if abs(number) <= _MAX_EXACT else value
