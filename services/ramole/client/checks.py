"""What a client refuses by itself, because it cannot be sent: with the errors that the server would answer."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from ramole.core.errors import InvalidInput
from ramole.core.texts import check_text

M = TypeVar("M", bound=Message)


def message(kind: type[M], /, **fields: Any) -> M:
    """A message of these fields. Raises InvalidInput, by the field's name, for a value that it cannot hold."""
    try:
        return kind(**fields)
    except (ValueError, TypeError):  # of no field in particular
        for field, value in fields.items():
            _check(kind, field, value)
        raise


def _check(kind: type[Message], field: str, value: object) -> None:
    if isinstance(value, str):
        check_text(value, field=field)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, str):
                check_text(item, field=f"{field}[{index}]")
    try:
        kind(**{field: value})
    except (ValueError, TypeError):
        raise InvalidInput(f"{value!r:.80} is out of its range", field=field, remedy="see the protocol") from None
