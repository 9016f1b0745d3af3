"""Reads the settings, and says where each mistake stands: its variable or its line, its value, and what is right."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ramole.core.errors import WrongState
from ramole.core.setting_sources import Key, config_path, our_variables, read_yaml, variable
from ramole.core.settings import Settings

_MAX_SHOWN = 5
_MAX_VALUE_CHARS = 80
_SAID = {
    "extra_forbidden": "no setting has this name",
    "model_type": "this is a section with keys of its own, not one value",
    "string_pattern_mismatch": "the value has another form",
}
"""Instead of pydantic's words, where those speak of classes or regular expressions."""


def load_settings(**arguments: Any) -> Settings:
    """The settings of this process.

    Args:
        arguments: come before the environment and the file.

    Raises:
        WrongState: some are wrong; the message names each by its variable, its line of the file or its key.
    """
    try:
        return Settings(**arguments)
    except ValidationError as error:
        raise _explained(error) from None


def fields(model: type[BaseModel] = Settings, above: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Every setting with its key, sections before what is in them."""
    for name, field in model.model_fields.items():
        yield (*above, name), field
        section = section_of(field)
        if section is not None:
            yield from fields(section, (*above, name))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a setting is, if it is one, also an optional one."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and not _is_mapping(field):
            return kind
    return None


def _is_mapping(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is dict


def _explained(error: ValidationError) -> WrongState:
    places = _Places()
    faults = [places.fault(detail) for detail in error.errors(include_url=False)]
    if len(faults) == 1:
        return faults[0]
    more = f"; and {len(faults) - _MAX_SHOWN} more" if len(faults) > _MAX_SHOWN else ""
    return WrongState("; ".join(map(str, faults[:_MAX_SHOWN])) + more)


class _Places:
    """Where each setting stands now."""

    def __init__(self) -> None:
        self._path = config_path()
        self._lines = read_yaml(self._path)[1] if self._path else {}
        self._variables = our_variables(os.environ)
        self._known = dict(fields())

    def fault(self, detail: ErrorDetails) -> WrongState:
        """One error of pydantic's, as a user can act on it."""
        key = tuple(str(part) for part in detail["loc"])
        place = self._where(key)
        what = _SAID.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            return WrongState(what, field=place, remedy=self._nearest(key, place))
        field = self._known.get(key)
        if field is not None and field.repr and section_of(field) is None:
            what += f", not {str(detail['input'])[:_MAX_VALUE_CHARS]!r}"
        described = next((found for n in range(len(key), 0, -1) if (found := self._known.get(key[:n]))), None)
        return WrongState(what, field=place, remedy=(described and described.description) or "correct or remove it")

    def _where(self, key: Key) -> str:
        field = self._known.get(key)
        if field is not None and section_of(field) is not None and key not in self._variables:
            # A rule for several settings of a section: wherever some of these are set.
            below = [variable(name) for name in self._variables if name[: len(key)] == key]
            below += [self._line(key, key)] if key in self._lines else []
            return " and ".join(below) or ".".join(key)
        for length in range(len(key), 0, -1):
            part = key[:length]
            # An unknown section is refused as a whole; its variables have longer names.
            is_unknown = length == 1 and part not in self._known
            for name in self._variables:
                if name == part or (is_unknown and name[:1] == part):
                    return variable(name)
            if part in self._lines:
                return self._line(part, key)
        return ".".join(key)

    def _line(self, part: Key, key: Key) -> str:
        return f"{self._path} line {self._lines[part]}, {'.'.join(key)}"

    def _nearest(self, key: Key, place: str) -> str:
        is_variable = place.startswith(variable(key))
        # One that stands deeper in the same section is meant, rather than another that is spelt alike.
        moved = [name for name in self._known if (name[0], name[-1]) == (key[0], key[-1])]
        names = [variable(name) if is_variable else ".".join(name) for name in moved or self._known]
        nearest = difflib.get_close_matches(place if is_variable else ".".join(key), names, n=1)
        if nearest:
            return f"did you mean {nearest[0]}?"
        above = key[:-1]
        while above and above not in self._known:
            above = above[:-1]
        return f"there are: {', '.join(name[-1] for name in self._known if name[:-1] == above)}"
