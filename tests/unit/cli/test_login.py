"""`login`, `logout`, `whoami`, and where every command finds its server: flags, environment, file."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import stat
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.cli._login import DEFAULT_ADDRESS, Login, login_path, read_login, resolve_login, write_login
from ramole.core.errors import WrongState
from ramole.gateway.keys import KeyFile, Role
from support.gateway_world import World

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("RAMOLE_")}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "ramole.toml"


class Door:
    """A gateway that knows keys, and an operator's key of it."""

    def __init__(self, world: World, key: str, home: Path) -> None:
        self.address = world.servers["gateway"].address
        self.key = key
        self.home = home

    async def ramole(self, *args: str, code: int = 0, env: dict[str, str] | None = None) -> tuple[str, str]:
        """Stdout and stderr of a command that ends with `code`; neither ever holds the key."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("ramole")),
            *args,
            env=CLEAN | {"XDG_CONFIG_HOME": str(self.home.parent)} | (env or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = (part.decode() for part in await process.communicate())
        assert process.returncode == code, err
        assert self.key not in out + err
        assert "Traceback" not in err
        return out, err


@pytest.fixture
async def door(tmp_path: Path, home: Path) -> AsyncIterator[Door]:
    _, key = KeyFile(tmp_path / "data" / "keys.json").add("ci", "acme", Role.ADMIN)
    world = World()
    world.settings = world.settings.model_copy(update={"data_dir": tmp_path / "data"})
    await world.start_neighbours()
    await world.start_gateway()
    yield Door(world, key, home)
    await world.stop()


async def test_a_login_is_tried_kept_used_and_forgotten(door: Door) -> None:
    _, err = await door.ramole("whoami", "--address", door.address, code=1)
    assert err.startswith("error: ")
    _, err = await door.ramole("login", "--address", door.address, code=1)
    assert not door.home.exists(), "nothing that does not work is kept"
    out, err = await door.ramole("login", "--address", door.address, "--key", door.key)
    assert out == f"ci, admin, publisher, user of tenant acme at {door.address}, which serves zoo/base\n"
    assert str(door.home) in err
    assert stat.S_IMODE(door.home.stat().st_mode) == 0o600
    assert tomllib.loads(door.home.read_text()) == {"address": door.address, "key": door.key}
    assert [path.name for path in door.home.parent.iterdir()] == ["ramole.toml"], "no draft is left"
    who = json.loads((await door.ramole("whoami", "--json"))[0])
    assert (who["address"], who["tenant"], who["name"]) == (door.address, "acme", "ci")
    assert "admin" in who["roles"]
    assert "nothing here" in (await door.ramole("adapters"))[1]
    await door.ramole("whoami", env={"RAMOLE_KEY": "rml-wrong"}, code=1)
    await door.ramole("--key", "rml-wrong", "whoami", code=1)
    assert "ci" in (await door.ramole("--key", door.key, "whoami", env={"RAMOLE_KEY": "rml-wrong"}))[0]
    out, _ = await door.ramole("logout")
    assert "is removed" in out
    assert "is not there" in (await door.ramole("logout"))[0]
    await door.ramole("whoami", "--address", door.address, code=1)


async def test_what_is_missing_is_asked_for_and_the_key_is_not_shown(door: Door) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("ramole")),
        "login",
        env=CLEAN | {"XDG_CONFIG_HOME": str(door.home.parent)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    async def until(what: bytes) -> None:
        nonlocal seen
        async with asyncio.timeout(30):
            while what not in seen:
                seen += await asyncio.to_thread(os.read, ours, 2**12)

    await until(b"address [127.0.0.1:50051]")
    os.write(ours, door.address.encode() + b"\n")
    await until(b"API key: ")  # the space comes when nothing is shown any more
    os.write(ours, door.key.encode() + b"\n")
    await until(b"tenant acme")
    assert await process.wait() == 0
    os.close(ours)
    assert door.key.encode() not in seen
    assert read_login() == Login(door.address, door.key)


async def test_a_broken_file_stops_no_command_that_needs_no_server(door: Door) -> None:
    door.home.parent.mkdir()
    door.home.write_text("adress = 1\n")
    _, err = await door.ramole("adapters", code=1)
    assert err == f"error: {door.home}: unknown key 'adress' (use address, key, ca)\n"
    await door.ramole("logout")


KEPT = Login("kept:1", "kept-key", "/kept.pem")


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (("", "", ""), KEPT),
        (("kept:1", "", ""), KEPT),
        (("", "k", ""), Login("kept:1", "k", "/kept.pem")),
        (("other:1", "", ""), Login("other:1")),
        (("other:1", "k", "/c.pem"), Login("other:1", "k", "/c.pem")),
    ],
)
def test_the_kept_key_goes_to_the_kept_address_only(home: Path, given: tuple[str, str, str], want: Login) -> None:
    write_login(KEPT)
    assert resolve_login(*given) == want


def test_without_a_login_the_server_of_this_machine_is_meant(home: Path) -> None:
    assert resolve_login("", "", "") == Login(DEFAULT_ADDRESS)
    write_login(Login("", "k"))
    assert resolve_login("", "", "") == Login(DEFAULT_ADDRESS, "k")
    assert resolve_login("127.0.0.1:1", "", "") == Login("127.0.0.1:1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('key = "k"\nuser = "me"\n', "unknown key 'user'"),
        ("address = 50051\n", "address is not a text"),
        ("address = \n", "not TOML"),
        ("[address]\n", "address is not a text"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_what_the_file_cannot_mean_is_refused_by_name(home: Path, text: str | bytes, says: str) -> None:
    home.parent.mkdir()
    home.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WrongState, match=says) as refused:
        read_login()
    assert refused.value.field == str(home)
    assert refused.value.remedy


def test_a_key_that_others_may_read_is_refused(home: Path) -> None:
    write_login(KEPT)
    home.chmod(0o640)
    with pytest.raises(WrongState, match="others may read") as refused:
        read_login()
    assert refused.value.remedy == f"chmod 600 {home}"
    assert "kept-key" not in repr(KEPT)


def test_the_file_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for config in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", config)
        assert login_path() == tmp_path / ".config" / "ramole.toml"


@pytest.mark.usefixtures("home")
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, address: str, key: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "written"))
        write_login(Login(address, key))
        assert read_login() == Login(address, key)
