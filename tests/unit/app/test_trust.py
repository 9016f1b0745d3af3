"""The secret of a system: made once by whoever comes first, its owner's alone, needed where others can come in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ramole.app import build
from ramole.app.resolution import resolve
from ramole.app.services import SERVICES
from ramole.app.trust import check_hosts, trust_of
from ramole.core.errors import WrongState
from ramole.core.settings import PlainSettings, Settings
from ramole.transport.trust import Trust
from support.certificates import Authority

INTERNAL = [name for name, spec in SERVICES.items() if not spec.is_public]


def settings(folder: Path, **given: Any) -> Settings:
    return resolve(PlainSettings(data_dir=folder, **given))


def test_all_who_come_at_once_share_one_secret(tmp_path: Path) -> None:
    ours = settings(tmp_path / "data")
    with ThreadPoolExecutor(16) as pool:
        trusts = list(pool.map(lambda _: trust_of(ours), range(64)))
    assert len({trust.metadata for trust in trusts}) == 1
    [key] = (tmp_path / "data").iterdir()
    assert key.name == "internal.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert trust_of(ours).metadata == trusts[0].metadata
    assert key.read_text() not in str(trusts[0].metadata), "what travels is no file's content"
    assert trust_of(settings(tmp_path / "other")).metadata != trusts[0].metadata


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_secret_that_others_can_read_ends_the_start(tmp_path: Path, mode: int) -> None:
    trust_of(settings(tmp_path))
    (tmp_path / "internal.key").chmod(mode)
    with pytest.raises(WrongState, match="others can read") as refused:
        trust_of(settings(tmp_path))
    assert refused.value.field == "internal.secret_file"


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), (b"", "0 bytes"), (b" short \n", "5 bytes")])
def test_a_file_that_is_given_is_used_or_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WrongState, match=why):
        trust_of(settings(tmp_path, internal={"secret_file": file}))
    file.write_bytes(b"0123456789abcdef\n")
    assert trust_of(settings(tmp_path, internal={"secret_file": file})).metadata == Trust(b"0123456789abcdef").metadata
    assert not (tmp_path / "internal.key").exists()


@pytest.mark.parametrize("name", INTERNAL)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "node-7"])
def test_a_service_that_others_can_reach_knows_its_own(tmp_path: Path, name: str, host: str) -> None:
    given: dict[str, Any] = {name: {"server": {"host": host}}}
    with pytest.raises(WrongState) as refused:
        check_hosts(settings(tmp_path, **given))
    assert refused.value.field == f"{name}.server.host"
    with pytest.raises(WrongState, match="other machines"):
        build({"service": "embedding", "settings": {"data_dir": str(tmp_path), **given}})
    check_hosts(settings(tmp_path, **given, internal={"secret_file": tmp_path / "secret"}))
    cert, key, ca = map(str, Authority().write(tmp_path, "server"))
    tls = {"cert_file": cert, "key_file": key, "ca_file": ca}
    secure = settings(tmp_path, **given, internal={"tls": tls})
    assert trust_of(secure).metadata == ()
    assert trust_of(secure).server_tls is not None


@pytest.mark.parametrize("left_out", ["cert_file", "key_file", "ca_file"])
def test_some_of_the_certificates_are_refused_by_name(tmp_path: Path, left_out: str) -> None:
    files = dict(zip(("cert_file", "key_file", "ca_file"), map(str, Authority().write(tmp_path, "x")), strict=True))
    del files[left_out]
    with pytest.raises(WrongState) as refused:
        trust_of(settings(tmp_path, internal={"tls": files}))
    assert refused.value.field == "internal.tls"
