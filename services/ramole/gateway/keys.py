"""API keys: who holds which and what it allows. Hashed at rest; a running server follows the file.

A key is 256 random bits, so one round of SHA-256 hides it as well as many would.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ramole.core.call import ADMIN, PUBLISHER, ROLES, USER, Principal
from ramole.core.errors import Corrupt, InvalidInput, NotFound
from ramole.core.names import check_tenant
from ramole.core.private_files import write_private

PREFIX = "rml-"

_MAX_NAME_CHARS = 64
_LOOK_S = 0.5

_log = logging.getLogger(__name__)


class Role(StrEnum):
    """What a key allows; each role includes those before it."""

    USER = USER
    PUBLISHER = PUBLISHER
    ADMIN = ADMIN


class Key(BaseModel):
    """One key, without its secret.

    Attributes:
        id: names it in lists, logs and for removal.
        name: who holds it.
        digest: sha256 of the secret, hex.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str
    tenant: str
    role: Role
    digest: str
    created_at: datetime

    @property
    def principal(self) -> Principal:
        """Who calls with it."""
        return Principal(self.tenant, self.name, frozenset(ROLES[: ROLES.index(self.role) + 1]))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    keys: tuple[Key, ...] = ()


class KeyFile:
    """The keys of one server.

    Args:
        path: of the file; it need not exist.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._looked_s = float("-inf")
        self._by_digest: dict[str, Key] = {}

    def add(self, name: str, tenant: str, role: Role) -> tuple[Key, str]:
        """Makes a key.

        Returns:
            The key and its secret, which is kept nowhere.

        Raises:
            InvalidInput: the name or the tenant cannot be one.
            Corrupt: the file cannot be read.
        """
        if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
            raise InvalidInput(
                f"{name[:80]!r} is not the name of a holder",
                field="name",
                remedy=f"use 1 to {_MAX_NAME_CHARS} printable characters",
            )
        check_tenant(tenant)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            id=secrets.token_hex(4),
            name=name,
            tenant=tenant,
            role=role,
            digest=_digest(secret),
            created_at=datetime.now(UTC),
        )
        with self._changing() as keys:
            keys.append(key)
        return key, secret

    def remove(self, key_id: str) -> Key:
        """Makes a key worthless. Raises NotFound, Corrupt."""
        with self._changing() as keys:
            key = next((key for key in keys if key.id == key_id), None)
            if key is None:
                raise NotFound(f"no key {key_id[:80]!r}", field="id", remedy="see `ramole keys list`")
            keys.remove(key)
        return key

    def all(self) -> tuple[Key, ...]:
        """All keys, oldest first. Raises Corrupt when the file cannot be read."""
        return _read(self._path).keys

    def find(self, secret: str) -> Key | None:
        """The key with this secret; None if there is none. Follows changes of the file within half a second."""
        self._follow()
        return self._by_digest.get(_digest(secret))

    @property
    def is_empty(self) -> bool:
        """Whether there are no keys, so that nobody can be asked for one."""
        self._follow()
        return not self._by_digest

    def _follow(self) -> None:
        now = self._clock()
        if now - self._looked_s < _LOOK_S:
            return
        self._looked_s = now
        try:
            stat = self._path.stat()
            seen = stat.st_mtime_ns, stat.st_ino
        except FileNotFoundError:
            seen = 0, 0
        if seen == self._seen:
            return
        try:
            self._by_digest = {key.digest: key for key in self.all()}
        except Corrupt as error:
            if self._seen is None:
                raise
            # A half-written file must neither open the door nor lock everybody out.
            _log.error("the keys stay as they were: %s", error)
        self._seen = seen

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(self.all())
            yield keys
            write_private(self._path, _File(keys=tuple(keys)).model_dump_json(indent=1) + "\n")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _File()
    except (OSError, ValidationError) as error:
        what = (
            error.errors(include_url=False, include_input=False)[0]["msg"]
            if isinstance(error, ValidationError)
            else error
        )
        raise Corrupt(f"{path} cannot be read: {what}", field="gateway.keys_file", remedy="restore it") from None
