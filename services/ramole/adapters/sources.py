"""Adapters that the server fetches itself: from the Hugging Face hub, or any fsspec file system that it may read.

Only the upload call fetches; a generation never does. A URI comes from a stranger: it must lie below a prefix
that the operator lists, and it cannot climb out of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ramole.core.errors import InvalidInput, RamoleError, Unavailable
from ramole.lora.config import CONFIG_FILE
from ramole.lora.header import TENSORS_FILE

MAX_URI_CHARS = 1024

_CHUNK_BYTES = 4 * 2**20
# No query, fragment, glob, escape or second protocol ("::" chains file systems in fsspec).
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._~@+=,/-]*")


def check_source(uri: str, allowed: Sequence[str]) -> None:
    """Raises InvalidInput unless `uri` is plain and lies below a prefix in `allowed`.

    A prefix ends at a slash: ``s3://bucket`` allows ``s3://bucket/x``, not ``s3://bucket-of-others``.
    """
    scheme, _, path = uri.partition("://")
    parts = path.rstrip("/").split("/")
    # A path may be empty at its beginning only: file:///folder.
    if len(uri) > MAX_URI_CHARS or not _URI.fullmatch(uri) or {"", ".", ".."} & set(parts[1:]):
        raise _refuse(f"{uri[:160]!r} is no plain URI of a folder", "use for example hf://org/repo@revision")
    if not any(uri.startswith(prefix if prefix.endswith("/") else f"{prefix}/") for prefix in allowed):
        raise _refuse(
            f"{uri[:160]!r} is not an allowed source", "send the bytes, or have the operator add it to adapters.sources"
        )
    if scheme == "file":
        _check_links(path, [prefix.partition("://")[2] for prefix in allowed if prefix.startswith("file://")])


def fetch(uri: str, options: Mapping[str, Mapping[str, Any]], write: Callable[[str, bytes], None]) -> None:
    """Reads both files of the folder `uri`, which has been checked, and hands them to `write` in chunks.

    Args:
        options: arguments of the file systems, by scheme.

    Raises:
        InvalidInput: there is no such folder, or it lacks a file.
        Unavailable: the file system cannot be reached, or is not installed.
        RamoleError: whatever `write` raises.
    """
    import fsspec

    try:
        # A cached file system would remember what a branch or a folder once held.
        arguments = {"skip_instance_cache": True, **options.get(uri.partition("://")[0], {})}
        fs, root = fsspec.url_to_fs(uri, **arguments)
        for name in (CONFIG_FILE, TENSORS_FILE):
            with fs.open(f"{root.rstrip('/')}/{name}", "rb") as file:
                while data := file.read(_CHUNK_BYTES):
                    write(name, data)
    except RamoleError:
        raise
    except FileNotFoundError as error:
        raise _refuse(f"{uri} has no {CONFIG_FILE} and {TENSORS_FILE}", "name the folder of a PEFT adapter") from error
    except Exception as error:  # each file system's library has errors of its own
        raise Unavailable(
            f"{uri} cannot be read: {type(error).__name__}",
            field="header.source",
            remedy="check the name, the server's credentials for it and its network, then retry",
        ) from error


def _check_links(path: str, allowed: Sequence[str]) -> None:
    """Links inside a local folder must not lead out of it."""
    roots = [os.path.realpath(root) for root in allowed]
    for name in (CONFIG_FILE, TENSORS_FILE):
        real = os.path.realpath(os.path.join(path, name))
        if not any(real.startswith(f"{root.rstrip('/')}/") for root in roots):
            raise _refuse(f"{name} of {path[:160]!r} is a link to elsewhere", "name a folder without links")


def _refuse(message: str, remedy: str) -> InvalidInput:
    return InvalidInput(message, field="header.source", remedy=remedy)
