"""Repositories of the Hugging Face hub, read at one commit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

HUB_OPTIONS: Mapping[str, Any] = MappingProxyType({"token": False})
"""Arguments of its file system unless the operator gives others. Whoever uploads may download what was fetched: so the
token that happens to lie on the server's machine opens nothing to clients."""


def at_commit(fs: Any, path: str) -> str:
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
