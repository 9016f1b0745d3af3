"""API keys: made, found, removed; followed while a server runs; a broken file neither opens the door nor shuts it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import Corrupt, InvalidInput, NotFound
from ramole.gateway.keys import KeyFile, Role


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_opens_until_it_is_removed(path: Path) -> None:
    server, operator = KeyFile(path, clock=Clock()), KeyFile(path)
    assert server.is_empty
    assert server.find("") is None
    key, secret = operator.add("ci", "acme", Role.PUBLISHER)
    assert not server.is_empty
    assert server.find(secret) == key
    assert server.find(secret + "x") is None
    assert server.find(secret[:-1]) is None
    principal = key.principal
    assert (principal.tenant, principal.name, principal.roles) == ("acme", "ci", {"user", "publisher"})
    assert operator.remove(key.id) == key
    assert server.find(secret) is None
    with pytest.raises(NotFound):
        operator.remove(key.id)


def test_the_secret_is_nowhere(path: Path) -> None:
    _, secret = KeyFile(path).add("ci", "acme", Role.ADMIN)
    assert secret not in path.read_text()
    assert secret.removeprefix("rml-") not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_has_begun_to_look_is_not_asked_again_at_once(path: Path) -> None:
    now_s = [0.0]
    server = KeyFile(path, clock=lambda: now_s[0])
    assert server.is_empty
    key, secret = KeyFile(path).add("ci", "acme", Role.USER)
    now_s[0] = 0.4
    assert server.find(secret) is None
    now_s[0] = 0.6
    assert server.find(secret) == key


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1, "keys": [{"id": "a"}]}', '{"format": 1, "keys": [], "x": 1}']
)
def test_a_broken_file_changes_nothing_while_it_runs(path: Path, text: str) -> None:
    key, secret = KeyFile(path).add("ci", "acme", Role.USER)
    server = KeyFile(path, clock=Clock())
    assert server.find(secret) == key
    path.write_text(text)
    assert server.find(secret) == key
    assert server.find("other") is None
    with pytest.raises(Corrupt, match=r"keys\.json"):
        KeyFile(path).find(secret)
    with pytest.raises(Corrupt):
        KeyFile(path).add("ci", "acme", Role.USER)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("name", "tenant", "field"),
    [("", "a", "name"), ("x" * 65, "a", "name"), ("a\n", "a", "name"), ("a", "../b", "tenant")],
)
def test_what_cannot_be_a_holder(path: Path, name: str, tenant: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        KeyFile(path).add(name, tenant, Role.USER)
    assert caught.value.field == field
    assert not path.exists()


@given(st.text())
def test_no_other_text_is_a_key(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    keys = KeyFile(tmp_path_factory.getbasetemp() / "one.json")
    if keys.is_empty:
        keys.add("ci", "acme", Role.USER)
        keys = KeyFile(tmp_path_factory.getbasetemp() / "one.json")
    assert keys.find(text) is None
