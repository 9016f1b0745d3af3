"""A service gets the settings that it reads, cannot read others, and is replaced for the sake of no others."""

from __future__ import annotations

from typing import Any

import pytest

from ramole.app.serve_config import serve_config
from ramole.app.services import SERVICES
from ramole.app.shares import narrowed, share
from ramole.core.setting_errors import fields
from ramole.core.settings import PlainSettings

GIVEN: dict[str, Any] = {
    "data_dir": "/var/lib/ramole",
    "internal": {"secret_file": "/etc/ramole/key"},
    "retrieval": {"uri": "http://index:19530"},
}


def shares(**given: Any) -> dict[str, Any]:
    config = serve_config(PlainSettings(**(GIVEN | given)))
    return {each["name"]: each["args"]["settings"] for each in config["applications"]}


@pytest.mark.parametrize("name", SERVICES)
def test_what_the_table_names_exists(name: str) -> None:
    known = {".".join(key) for key, _ in fields()}
    assert set(SERVICES[name].all_reads) <= known


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_cannot_read_what_it_is_not_given(name: str) -> None:
    settings = PlainSettings()
    paths = SERVICES[name].all_reads
    seen = narrowed(settings, paths)
    for key, _ in fields():
        path = ".".join(key)
        may = any(path == each or path.startswith(f"{each}.") or each.startswith(f"{path}.") for each in paths)
        value: Any = seen
        try:
            for part in key:
                value = getattr(value, part)
        except AttributeError:
            assert not may or value is None, path  # an optional section that is absent
        else:
            assert may, path
    assert settings == PlainSettings()


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        ({"executor": {"max_rows": 8}}, {"executor"}),
        ({"executor": {"slot_rank": 8}}, {"executor", "adapters"}),
        ({"gateway": {"deadline_s": 60}}, {"gateway"}),
        ({"adapters": {"keep_versions": 3}}, {"adapters"}),
        ({"adapters": {"max_rank": 8}}, {"adapters", "gateway"}),
        ({"embedding": {"threads": 2}}, {"embedding"}),
        ({"cache": {"negative_s": 1}}, {"adapters", "executor"}),
        ({"logging": {"access": False}}, set(SERVICES)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # a set has another order in each process
)
def test_a_change_replaces_only_those_who_read_it(change: dict[str, Any], replaced: set[str]) -> None:
    before, after = shares(), shares(**change)
    assert {name for name in SERVICES if before[name] != after[name]} == replaced


def test_a_share_has_the_order_of_what_was_given() -> None:
    given = {"b": {"y": 1, "x": 2, "z": 3}, "a": 1, "c": {"x": 1}}
    assert list(share(given, ("a", "b.x", "b.y"))["b"]) == ["y", "x"]
    assert share(given, ("a", "b.x", "b.y", "d.e")) == {"b": {"y": 1, "x": 2}, "a": 1}
