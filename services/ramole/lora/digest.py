"""The identity of an adapter: what every cache key, index row and answer refers to."""

from __future__ import annotations

import hashlib


def content_digest(config_json: bytes, tensors: bytes | memoryview) -> str:
    """sha256, in hex, over both files. Each is preceded by its length, so no byte can move from one to the other."""
    digest = hashlib.sha256()
    for part in (config_json, tensors):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
