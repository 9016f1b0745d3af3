"""An adapter folder as a stream of upload messages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ramole.client.checks import message
from ramole.core.errors import InvalidInput
from ramole.core.texts import visible
from ramole.lora.files import FILES
from ramole.v1.gateway_pb2 import UploadAdapterRequest
from ramole.v1.records_pb2 import FileChunk, UploadHeader

CHUNK_BYTES = 2**20


def check_folder(folder: Path) -> str:
    """The folder's own name. Raises InvalidInput when a file of the adapter is missing."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        shown = visible(str(folder))
        raise InvalidInput(
            f"{shown} has no {missing[0]}" if folder.is_dir() else f"there is no folder {shown}",
            field="folder",
            remedy=f"give a PEFT LoRA folder with {' and '.join(FILES)}",
        )
    return folder.resolve().name


async def upload_header(folder: Path | None, **fields: Any) -> UploadHeader:
    """What an upload says of itself, and of its files if there are any: what lies there now is what shall arrive.

    Args:
        fields: of the message.

    Raises:
        InvalidInput: a field that cannot be sent, before anything is.
    """
    return message(UploadHeader, **fields, sha256={} if folder is None else await asyncio.to_thread(_hashes, folder))


async def upload_messages(folder: Path | None, header: UploadHeader) -> AsyncIterator[UploadAdapterRequest]:
    """The header, then both files in chunks unless there is no folder. Reads in threads, holds one chunk at a time."""
    yield UploadAdapterRequest(header=header)
    if folder is None:
        return
    for name in FILES:
        file = await asyncio.to_thread((folder / name).open, "rb")
        try:
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield UploadAdapterRequest(chunk=FileChunk(file=name, data=data))
        finally:
            file.close()


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for name in FILES:
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
