"""Who may come in, by keys, by settings, and by where the server listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ramole.core.call import ANONYMOUS, USER
from ramole.core.errors import Unauthenticated, WrongState
from ramole.core.settings import GatewaySettings, Settings
from ramole.gateway.identity import EdgeIdentity, is_loopback, keys_path
from ramole.gateway.keys import KeyFile, Role
from ramole.transport.identity import Peer


def settings(folder: Path, **gateway: Any) -> Settings:
    return Settings(base_model="b", data_dir=folder, gateway=GatewaySettings.model_validate(gateway))


def peer(header: str = "", **metadata: str) -> Peer:
    return Peer("ipv4:10.0.0.7:1", metadata={"authorization": header, **metadata} if header else metadata)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_without_keys_this_machine_is_open(tmp_path: Path, host: str) -> None:
    edge = EdgeIdentity(settings(tmp_path, server={"host": host}))
    assert edge.is_open
    assert edge(peer()).roles == edge(peer("Bearer x")).roles == ANONYMOUS.roles


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "node-7"])
@pytest.mark.parametrize("port", ["server", "http"])
def test_without_keys_no_other_machine_is_let_in_unless_somebody_says_so(tmp_path: Path, host: str, port: str) -> None:
    open_to_all = {port: {"host": host}}
    with pytest.raises(WrongState) as refused:
        EdgeIdentity(settings(tmp_path, **open_to_all))
    assert refused.value.field == f"gateway.{port}.host"
    assert "keys add" in refused.value.remedy
    EdgeIdentity(settings(tmp_path, **open_to_all, allow_anonymous=True))
    KeyFile(keys_path(settings(tmp_path))).add("ci", "acme", Role.USER)
    EdgeIdentity(settings(tmp_path, **open_to_all))


def test_a_port_that_is_off_is_no_way_in(tmp_path: Path) -> None:
    EdgeIdentity(settings(tmp_path, http={"host": "0.0.0.0", "port": None}))


def test_keys_say_who_calls(tmp_path: Path) -> None:
    key, secret = KeyFile(keys_path(settings(tmp_path))).add("ci", "acme", Role.PUBLISHER)
    edge = EdgeIdentity(settings(tmp_path))
    assert not edge.is_open
    for scheme in ("Bearer", "bearer"):
        assert edge(peer(f"{scheme} {secret}", **{"x-ramole-roles": "admin"})) == key.principal
    for header in ("", secret, f"Basic {secret}", "Bearer", f"Bearer {secret}x", f"Bearer {secret} {secret}"):
        with pytest.raises(Unauthenticated) as refused:
            edge(peer(header))
        assert secret not in str(refused.value)


def test_with_keys_strangers_may_generate_where_it_is_said(tmp_path: Path) -> None:
    KeyFile(keys_path(settings(tmp_path))).add("ci", "acme", Role.ADMIN)
    edge = EdgeIdentity(settings(tmp_path, allow_anonymous=True))
    assert edge(peer()).roles == {USER}
    with pytest.raises(Unauthenticated):
        edge(peer("Bearer wrong"))


def test_names_are_not_taken_for_this_machine() -> None:
    assert not is_loopback("localhost.example")
    assert not is_loopback("")
