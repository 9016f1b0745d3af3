"""Where a store keeps its files: one small interface, for a local folder and for any fsspec file system.

Keys are relative paths with slashes. Whatever a method returned from is durable, and no key ever holds half a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ramole.adapters.store.local_files import LocalFiles
from ramole.adapters.store.remote_files import RemoteFiles
from ramole.core.errors import WrongState


class Files(Protocol):
    """Safe in any thread. Everything may raise Unavailable, or OSError and LimitExceeded (full) on a local disk."""

    def read(self, key: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def path(self, key: str) -> Path | None:
        """Where a file lies on this machine's disk, if it is there; None if the files lie elsewhere."""

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Many small files, in any order; those that do not exist are left out."""

    def write(self, key: str, data: bytes) -> None:
        """Creates or replaces a file."""

    def create(self, key: str, data: bytes) -> None:
        """Creates a file. Raises FileExistsError, also when another process was first."""

    def take(self, key: str, path: Path) -> None:
        """Creates or replaces a file by a local one, which is synced to disk and may be gone afterwards."""

    def remove(self, key: str) -> None:
        """Removes a file. Missing is fine."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All files below a folder, in any order, without reading them."""


def open_files(uri: str, options: Mapping[str, Any], *, folder: Path, scratch: Path) -> Files:
    """The files of a store.

    Args:
        uri: any fsspec URI, e.g. ``s3://bucket/prefix``; empty = `folder`.
        options: arguments of the fsspec file system, e.g. its endpoint.
        folder: on the file system of `scratch`.

    Raises:
        WrongState: the URI's file system is not installed, or the URI is malformed.
    """
    return open_remote(uri, options, field="adapters.store_uri") if uri else LocalFiles(folder, scratch)


def open_remote(uri: str, options: Mapping[str, Any], *, field: str) -> Files:
    """The files below a URI of any fsspec file system but this machine's own.

    Args:
        field: the setting that holds the URI.

    Raises:
        WrongState: as `open_files`.
    """
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(uri, **{"use_listings_cache": False, **options})
    except (ImportError, ValueError) as error:
        raise WrongState(
            f"{uri[:160]!r} cannot be opened: {error}",
            field=field,
            remedy="install the package of its file system, e.g. ramole[s3] for s3://",
        ) from error
    if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
        raise WrongState(f"{uri[:160]!r} is a local folder", field=field, remedy="leave it empty and set data_dir")
    return RemoteFiles(fs, root)
