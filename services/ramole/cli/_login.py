"""Which server a command talks to: flags, then the environment, then what `ramole login` has written."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from ramole.core.errors import WrongState
from ramole.core.private_files import open_mode, write_private
from ramole.core.texts import visible

DEFAULT_ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Login:
    """A server, and what it asks of us.

    Attributes:
        key: API key; '' = none.
        ca: PEM file with the CA of the server's certificate; '' = no TLS.
    """

    address: str = ""
    key: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return f"Login({self.address!r})"


def login_path() -> Path:
    """Where a login is kept: below XDG_CONFIG_HOME, which counts when it is absolute, else in ~/.config."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "ramole.toml"


def resolve_login(address: str, key: str, ca: str) -> Login:
    """What a command uses, of what it was given itself ('' = nothing) and what is kept.

    The kept key and CA go to the kept address only.

    Raises:
        WrongState: what is kept cannot be read.
    """
    kept = read_login()
    address = address or kept.address or DEFAULT_ADDRESS
    if address != (kept.address or DEFAULT_ADDRESS):
        kept = Login()
    return Login(address, key or kept.key, ca or kept.ca)


def read_login() -> Login:
    """What is kept; an empty login when nothing is.

    Raises:
        WrongState: it is no TOML, or holds what this version does not know, by its name.
    """
    path = login_path()
    where = visible(str(path))
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Login()
    except OSError as error:
        raise WrongState(f"it cannot be read: {error.strerror}", field=where, remedy="mend its permissions") from None
    except ValueError as error:  # no UTF-8, or no TOML
        what = f"it is not TOML: {error}" if isinstance(error, tomllib.TOMLDecodeError) else "it is not UTF-8"
        raise WrongState(what, field=where, remedy="mend it, or write it anew by `ramole login`") from None
    known = [field.name for field in fields(Login)]
    for name, value in values.items():
        if name not in known:
            raise WrongState(f"unknown key {name!r}", field=where, remedy=f"use {', '.join(known)}")
        if not isinstance(value, str):
            raise WrongState(f"{name} is not a text", field=where, remedy=f'write {name} = "..."')
    login = Login(**values)
    if login.key and open_mode(path):
        raise WrongState("others may read the key in it", field=where, remedy=f"chmod 600 {where}")
    return Login(login.address, login.key, str(Path(login.ca).expanduser()) if login.ca else "")


def write_login(login: Login) -> Path:
    """Keeps a login in place of the one so far, whole or not at all, for its owner only. Raises OSError."""
    import tomli_w

    path = login_path()
    values = {field.name: getattr(login, field.name) for field in fields(Login)}
    write_private(path, tomli_w.dumps({name: value for name, value in values.items() if value}))
    return path


def forget_login() -> bool:
    """Removes what is kept; whether there was something."""
    try:
        login_path().unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
