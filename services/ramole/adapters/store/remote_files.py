"""Files on an object store, through fsspec. A single PUT is atomic and durable there, and listings show it at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ramole.core.errors import Unavailable

_log = logging.getLogger(__name__)

# Requests that fsspec sends at once for a batch of small files.
_BATCH = 256


class RemoteFiles:
    """The `Files` below `root` of an fsspec file system.

    Args:
        fs: made without a listings cache.
    """

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")

    def read(self, key: str) -> bytes:
        """See `Files`."""
        with self._translated():
            return bytes(self._fs.cat_file(self._path(key)))

    def path(self, key: str) -> None:
        """See `Files`."""

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """See `Files`."""
        by_path = {self._path(key): key for key in keys}
        paths = list(by_path)
        for start in range(0, len(paths), _BATCH):
            with self._translated():
                answers = self._fs.cat(paths[start : start + _BATCH], on_error="return")
                for path, answer in answers.items():
                    if isinstance(answer, FileNotFoundError):
                        continue
                    if isinstance(answer, Exception):
                        raise answer
                    yield by_path[path], bytes(answer)

    def write(self, key: str, data: bytes) -> None:
        """See `Files`."""
        with self._translated():
            self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> None:
        """See `Files`: a conditional PUT."""
        with self._translated():
            self._fs.pipe_file(self._path(key), data, mode="create")

    def take(self, key: str, path: Path) -> None:
        """See `Files`: copies `path`."""
        with self._translated():
            self._fs.put_file(str(path), self._path(key))

    def remove(self, key: str) -> None:
        """See `Files`."""
        with self._translated(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Files`."""
        with self._translated():
            found = self._fs.find(self._path(prefix))
        return (path[len(self._root) + 1 :] for path in found)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever the file system's library raises, apart from the two answers that are part of the interface."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            # It names endpoints and buckets, which are not the client's business.
            _log.warning("the object store failed: %s: %s", type(error).__name__, error)
            raise Unavailable(
                f"the object store does not answer: {type(error).__name__}",
                field="adapters.store_uri",
                remedy="check its address, its credentials and that it runs, then retry",
            ) from error
