"""What the processes of one system know each other by: a file that the first of them makes, or files that are given."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from ramole.app.services import SERVICES
from ramole.core.address import is_loopback
from ramole.core.errors import WrongState
from ramole.core.private_files import open_mode, write_private
from ramole.core.settings import Settings
from ramole.transport.trust import Trust

_FIELD = "internal.secret_file"
_MIN_BYTES = 16


def trust_of(settings: Settings) -> Trust:
    """The trust of the system that this process is a part of.

    Args:
        settings: resolved.

    Raises:
        WrongState: a file cannot be used, or others than the services could read the secret or pretend to be one.
    """
    check_hosts(settings)
    internal = settings.internal
    tls = internal.tls if internal.tls.is_on else None
    path = secret_path(settings)
    if internal.secret_file is not None:
        return Trust(_read(internal.secret_file), tls)
    return Trust(b"", tls) if path is None else Trust(_own(path))


def secret_path(settings: Settings) -> Path | None:
    """Where the secret is, or will be made; None = certificates are enough."""
    if settings.internal.secret_file is not None:
        return settings.internal.secret_file
    return None if settings.internal.tls.is_on else settings.data_dir / "internal.key"


def check_hosts(settings: Settings) -> None:
    """What is made on one machine is known there only, and plain connections are heard by whoever is between.

    Raises:
        WrongState: other machines can reach a service, and nothing is given by which they know each other.
    """
    if settings.internal.tls.is_on or settings.internal.secret_file is not None:
        return
    for name, spec in SERVICES.items():
        host = spec.section(settings).server.host
        if not (spec.is_public or is_loopback(f"{host}:0")):
            raise WrongState(
                f"{host} can be reached from other machines, and the services could not know each other",
                field=f"{name}.server.host",
                remedy="set internal.tls; or internal.secret_file, where the network encrypts; or listen on 127.0.0.1",
            )


def _own(path: Path) -> bytes:
    """The secret of a system on one machine; made once, whoever comes first."""
    if not path.exists():
        with suppress(FileExistsError):
            write_private(path, secrets.token_hex(32), replaces=False)
    if mode := open_mode(path):
        raise WrongState(
            f"others can read {path}: its mode is {mode:o}",
            field=_FIELD,
            remedy="stop the server and remove the file: the next start makes another",
        )
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise WrongState(
            f"{path} cannot be read: {error.strerror}", field=_FIELD, remedy="name a file that the services can read"
        ) from error
    if len(secret) < _MIN_BYTES:
        raise WrongState(
            f"{path} holds {len(secret)} bytes", field=_FIELD, remedy=f"write at least {_MIN_BYTES} random ones"
        )
    return secret
