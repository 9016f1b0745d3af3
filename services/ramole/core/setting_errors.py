"""Reads the settings, and says where each mistake stands: its variable or its line, its value, and what is right."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

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
    path = config_path()
    lines = read_yaml(path)[1] if path else {}
    variables = our_variables(os.environ)
    known = dict(fields())

    def where(key: Key) -> str:
        field = known.get(key)
        if field is not None and section_of(field) is not None and variables.get(key) is None:
            # A rule for several settings of a section: wherever some of these are set.
            below = [variable(name) for name in variables if name[: len(key)] == key]
            below += [f"{path} line {lines[key]}, {'.'.join(key)}"] if key in lines else []
            return " and ".join(below) or ".".join(key)
        for length in range(len(key), 0, -1):
            part = key[:length]
            # An unknown section is refused as a whole; its variables have longer names.
            is_unknown = length == 1 and part not in known
            for name in variables:
                if name == part or (is_unknown and name[:1] == part):
                    return variable(name)
            if part in lines:
                return f"{path} line {lines[part]}, {'.'.join(key)}"
        return ".".join(key)

    def remedy(key: Key, *, is_unknown: bool) -> str:
        if not is_unknown:
            field = next((known[key[:n]] for n in range(len(key), 0, -1) if key[:n] in known), None)
            return (field and field.description) or "correct or remove it"
        place = where(key)
        is_variable = place.startswith(variable(key))
        moved = [name for name in known if (name[0], name[-1]) == (key[0], key[-1])]
        names = [variable(name) if is_variable else ".".join(name) for name in moved or known]
        wrong = place if is_variable else ".".join(key)
        nearest = difflib.get_close_matches(wrong, names, n=1)
        return f"did you mean {nearest[0]}?" if nearest else f"there are: {_siblings(known, key)}"

    faults = []
    for detail in error.errors(include_url=False):
        key = tuple(str(part) for part in detail["loc"])
        is_unknown = detail["type"] == "extra_forbidden"
        what = _SAID.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        field = known.get(key)
        if not is_unknown and field is not None and field.repr and section_of(field) is None:
            what += f", not {str(detail['input'])[:_MAX_VALUE_CHARS]!r}"
        faults.append(WrongState(what, field=where(key), remedy=remedy(key, is_unknown=is_unknown)))
    if len(faults) == 1:
        return faults[0]
    more = f"; and {len(faults) - _MAX_SHOWN} more" if len(faults) > _MAX_SHOWN else ""
    return WrongState("; ".join(map(str, faults[:_MAX_SHOWN])) + more)


def _siblings(known: dict[Key, FieldInfo], key: Key) -> str:
    above = next(above for n in range(len(key) - 1, -1, -1) if not (above := key[:n]) or above in known)
    return ", ".join(name[-1] for name in known if name[:-1] == above)
