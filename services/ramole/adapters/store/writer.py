"""The right to change a store: one process of a machine has it by a lock, one of all by its name in the store."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from ramole.adapters.store.files import Files
from ramole.core.errors import Unavailable

_WRITER = "writer"


class FolderLock:
    """Held while a store is open; the system frees it when the process ends.

    Raises:
        Unavailable: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = (folder / "lock").open("wb")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Unavailable(
                f"the store {folder} is open in another process",
                field="data_dir",
                remedy="stop it, or give every server a data_dir of its own",
            ) from None

    def close(self) -> None:
        """Frees it."""
        self._file.close()


class Writer:
    """Whoever opened the store last. Made before the store is read: so nothing that an older one changed is missed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._name = uuid4().hex
        self._is_closed = False
        files.write(_WRITER, self._name.encode())

    def close(self) -> None:
        """Changes nothing any more."""
        self._is_closed = True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around every lasting change: what another server may not have seen when it opened is not acknowledged.

        The check before keeps a replaced server from doing harm; the one after makes the answer true. A server that
        opens the store first makes itself the writer and then reads: it sees all that passed the second check.

        Raises:
            Unavailable: another server has opened the store since, or this one has closed it.
        """
        self.check()
        yield
        self.check()

    def check(self) -> None:
        """Raises as `changing`."""
        if self._is_closed:
            raise Unavailable("the store is closed", remedy="retry with back-off")
        if self.is_replaced():
            raise taken_over()

    def is_replaced(self) -> bool:
        """Whether another server has opened the store since."""
        try:
            return self._files.read(_WRITER).decode() != self._name
        except FileNotFoundError:
            return True


def taken_over() -> Unavailable:
    """Another server changes the store now."""
    return Unavailable(
        "another server has opened this store",
        field="adapters.store_uri",
        remedy="retry with that one; two servers that run at once need a store each",
    )
