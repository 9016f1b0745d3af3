"""One setting changes nothing but itself, from the environment and from the file: tried with each of them."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ramole.core.setting_errors import fields, load_settings, section_of
from ramole.core.setting_sources import Key, variable
from ramole.core.settings import Settings

LEAVES = [(key, field) for key, field in fields() if section_of(field) is None]
SECTIONS = [(key, field) for key, field in fields() if section_of(field) is not None]
TEXTS = {"device": "cuda:1", "host": "::1", "address": "auto", "otlp_endpoint": "http://collector:4317"}


def another_value(key: Key, field: FieldInfo) -> Any:
    """A legal value that is not the default."""
    default, kind = field.get_default(call_default_factory=True), field.annotation
    if typing.get_origin(kind) is typing.Literal:
        return next(value for value in typing.get_args(kind) if value != default)
    if default == "auto" and int in typing.get_args(kind):
        default = 8
    if default is None:
        default = next((of() for of in (bool, int, float) if of in typing.get_args(kind)), None)
    if isinstance(default, int):
        return not default if isinstance(default, bool) else default + 1
    match default:
        case float():  # a share is at most 1
            return default / 2 if default else 0.5
        case tuple():
            return ["s3://somewhere/"]
        case dict():
            legal: dict[Any, Any] = {str: "words", float: 2.0}
            value = typing.get_args(kind)[1]
            parts = () if typing.get_origin(value) is dict else _parts(value)
            return {"some": next((legal[part] for part in parts if part in legal), {})}
        case _:
            return TEXTS.get(key[-1], "/elsewhere")


def _parts(kind: Any) -> set[Any]:
    """Everything that a type is made of."""
    return {kind}.union(*(_parts(part) for part in typing.get_args(kind)))


def flat(model: BaseModel, above: Key = ()) -> dict[Key, Any]:
    """Key -> value of all leaves."""
    found: dict[Key, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        found |= flat(value, (*above, name)) if isinstance(value, BaseModel) else {(*above, name): value}
    return found


def differences(settings: Settings, from_: Settings) -> set[Key]:
    changed, defaults = flat(settings), flat(from_)
    return {key for key in changed if key not in defaults or changed[key] != defaults[key]}


def expected(key: Key) -> set[Key]:
    """An optional section comes as a whole."""
    above = [section for section, field in SECTIONS if key[: len(section)] == section and not field.default]
    return {leaf for leaf, _ in LEAVES if leaf[: len(above[0])] == above[0]} if above else {key}


@pytest.mark.parametrize(("key", "field"), LEAVES, ids=[".".join(key) for key, _ in LEAVES])
def test_a_setting_changes_itself_only(
    key: Key, field: FieldInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, defaults = another_value(key, field), load_settings()
    monkeypatch.setenv(variable(key), value if isinstance(value, str) else json.dumps(value))
    from_variable = load_settings()
    assert differences(from_variable, defaults) == expected(key)
    monkeypatch.delenv(variable(key))

    nested = value
    for name in reversed(key):
        nested = {name: nested}
    file = tmp_path / "ramole.yaml"
    file.write_text(yaml.safe_dump(nested))
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    assert load_settings() == from_variable


def test_the_default_of_a_section_is_what_its_class_says() -> None:
    assert len(SECTIONS) > 10
    for key, field in SECTIONS:
        section = section_of(field)
        assert section is not None
        assert field.default in (None, section()), key


def test_a_deep_variable_overrides_a_part_of_a_shallow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = ("RAMOLE_GATEWAY__SERVER__PORT", "9")
    shallow = ("RAMOLE_GATEWAY__SERVER", '{"port": 4, "max_inflight": 3}')
    for order in ((deep, shallow), (shallow, deep)):
        for name, value in order:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv(name, value)
        server = load_settings().gateway.server
        assert (server.port, server.max_inflight) == (9, 3)
