"""Digests: the identity of an adapter, which every cache key, index row and answer refers to, and that of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path


def content_digest(config_json: bytes, tensors: bytes | memoryview) -> str:
    """sha256, in hex, over both files. Each is preceded by its length, so no byte can move from one to the other."""
    digest = hashlib.sha256()
    for part in (config_json, tensors):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
