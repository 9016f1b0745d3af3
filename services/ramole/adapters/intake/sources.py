"""Adapters that the server fetches itself: from the Hugging Face hub, or any fsspec file system that it may read.

Only the upload call fetches; a generation never does. A URI comes from a stranger: it must lie below a prefix
that the operator lists, and it cannot climb out of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

from ramole.adapters.intake.local_sources import open_below
from ramole.core.bounds import TEXTS
from ramole.core.errors import InvalidInput, RamoleError, Unavailable
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE

Open = Callable[[str], IO[bytes]]

_CHUNK_BYTES = 4 * 2**20
_LOCAL = ("file", "local")
# Whoever uploads may download what was fetched: so the token that happens to lie on the server's machine opens nothing
# to clients, unless the operator gives one for it.
_HUB_OPTIONS: Mapping[str, Any] = MappingProxyType({"token": False})
# No query, fragment, glob, escape or second protocol ("::" chains file systems in fsspec).
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._~@+=,/-]*")


def check_source(uri: str, allowed: Sequence[str]) -> None:
    """Raises InvalidInput unless `uri` is plain and lies below a prefix in `allowed`.

    A prefix ends at a slash: ``s3://bucket`` allows ``s3://bucket/x``, not ``s3://bucket-of-others``.
    """
    _, _, path = uri.partition("://")
    parts = path.rstrip("/").split("/")
    # A path may be empty at its beginning only: file:///folder.
    if len(uri) > TEXTS["header.source"].high or not _URI.fullmatch(uri) or {"", ".", ".."} & set(parts[1:]):
        raise _refuse(f"{uri[:160]!r} is no plain URI of a folder", "use for example hf://org/repo@revision")
    if not any(uri.startswith(prefix if prefix.endswith("/") else f"{prefix}/") for prefix in allowed):
        raise _refuse(
            f"{uri[:160]!r} is not an allowed source", "send the bytes, or have the operator add it to adapters.sources"
        )


def fetch(
    uri: str, options: Mapping[str, Mapping[str, Any]], allowed: Sequence[str], write: Callable[[str, bytes], None]
) -> str:
    """Reads both files of the folder `uri`, which `check_source` has passed, and hands them to `write` in chunks.

    Args:
        options: arguments of the file systems, by scheme.
        allowed: prefixes, as of `check_source`.

    Returns:
        The URI of what was read: of a hub's branch, that of its commit.

    Raises:
        InvalidInput: there is no such folder, it lacks a file, or one of them is a link out of the allowed folders.
        Unavailable: the file system cannot be reached, or is not installed.
        RamoleError: whatever `write` raises.
    """
    name = CONFIG_FILE
    try:
        read, open_file = _opener(uri, options, allowed)
        for name in (CONFIG_FILE, TENSORS_FILE):
            with open_file(name) as file:
                while data := file.read(_CHUNK_BYTES):
                    write(name, data)
    except RamoleError:
        raise
    except FileNotFoundError as error:
        remedy = "name the folder of a PEFT adapter"
        if name == TENSORS_FILE:
            remedy += " that is saved as safetensors; adapter_model.bin is a pickle, and never read"
        raise _refuse(f"{uri} has no {name}", remedy) from error
    except Exception as error:  # each file system's library has errors of its own
        raise Unavailable(
            f"{uri} cannot be read: {type(error).__name__}",
            field="header.source",
            remedy="check the name, the server's credentials for it and its network, then retry",
        ) from error
    return read


def _opener(uri: str, options: Mapping[str, Mapping[str, Any]], allowed: Sequence[str]) -> tuple[str, Open]:
    """The URI of what is read, and what opens a file of it."""
    import fsspec

    scheme, _, path = uri.partition("://")
    if scheme in _LOCAL:
        roots = [prefix.partition("://")[2] for prefix in allowed if prefix.startswith(f"{scheme}://")]
        return uri, lambda name: open_below(f"{path.rstrip('/')}/{name}", roots)
    # A cached file system would remember what a branch or a folder once held.
    arguments = {"skip_instance_cache": True, **(_HUB_OPTIONS if scheme == "hf" else {}), **options.get(scheme, {})}
    fs, root = fsspec.url_to_fs(uri, **arguments)
    if scheme == "hf":
        # Both files come from one commit, whatever is pushed meanwhile.
        root = _at_commit(fs, root)
        uri = f"hf://{root}"
    return uri, lambda name: fs.open(f"{root.rstrip('/')}/{name}", "rb")


def _at_commit(fs: Any, path: str) -> str:
    """A path of a `HfFileSystem`, at the commit that its branch or tag stands for now. Raises as `fs` does."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_file_system import HfFileSystemResolvedRepositoryPath as RepositoryPath

    place = fs.resolve_path(path)
    if not isinstance(place, RepositoryPath):  # a bucket has no commits
        return path
    api = HfApi(endpoint=fs.endpoint, token=fs.token)
    info = api.repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision)
    if info.sha is None:
        raise ValueError(f"the hub names no commit of {path}")
    return RepositoryPath(place.repo_type, place.repo_id, info.sha, place.path_in_repo).unresolve()


def _refuse(message: str, remedy: str) -> InvalidInput:
    return InvalidInput(message, field="header.source", remedy=remedy)
