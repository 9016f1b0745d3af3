"""Files in a local folder. A power cut leaves the old state or the new one; after a return, the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ramole.core.errors import LimitExceeded
from ramole.tiers.full_disk import told_when_full

_SECTOR_BYTES = 512


class LocalFiles:
    """The `Files` below `root`; `scratch` is on the same file system. fsspec's own local files are never synced.

    What writes raises LimitExceeded when the disk is full.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch

    def read(self, key: str) -> bytes:
        """See `Files`."""
        return (self._root / key).read_bytes()

    def path(self, key: str) -> Path:
        """See `Files`."""
        return self._root / key

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """See `Files`."""
        for key in keys:
            with suppress(FileNotFoundError):
                yield key, self.read(key)

    def write(self, key: str, data: bytes) -> None:
        """See `Files`."""
        draft = self._scratch / uuid4().hex
        try:
            with told_when_full(), draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.take(key, draft)
        except LimitExceeded:
            # So that a start needs no space: it writes but its own name over that of the one before.
            if not _overwrite(self._root / key, data):
                raise
        finally:
            draft.unlink(missing_ok=True)

    def create(self, key: str, data: bytes) -> None:
        """See `Files`. Other processes are kept away by the store's lock."""
        if (self._root / key).exists():
            raise FileExistsError(key)
        self.write(key, data)

    def take(self, key: str, path: Path) -> None:
        """See `Files`: moves `path`."""
        target = self._root / key
        with told_when_full():
            _make_folder(target.parent)
            path.replace(target)
            _sync_folder(target.parent)

    def remove(self, key: str) -> None:
        """See `Files`. An empty folder goes with its last file."""
        path = self._root / key
        path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            _sync_folder(path.parent)
        with suppress(OSError):
            path.parent.rmdir()

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Files`."""
        for folder, _, names in os.walk(self._root / prefix):
            relative = os.path.relpath(folder, self._root)
            yield from (f"{relative}/{name}" for name in names)


def _overwrite(path: Path, data: bytes) -> bool:
    """Replaces a file in its place by one as long, if it fits into a sector, which is written whole or not at all."""
    try:
        with path.open("r+b", buffering=0) as file:
            if not len(data) == os.fstat(file.fileno()).st_size <= _SECTOR_BYTES:
                return False
            file.write(data)
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)
