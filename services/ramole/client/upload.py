"""An adapter folder as a stream of upload messages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ramole.client.checks import message
from ramole.core.errors import InvalidInput
from ramole.core.texts import visible
from ramole.lora.files import FILES
from ramole.v1.gateway_pb2 import UploadAdapterRequest
from ramole.v1.records_pb2 import FileChunk, UploadHeader

CHUNK_BYTES = 2**20

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are on their way: as fast as the server takes them, give or take a buffer."""


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


async def upload_messages(
    folder: Path | None, header: UploadHeader, progress: Progress | None = None
) -> AsyncIterator[UploadAdapterRequest]:
    """The header, then both files in chunks unless there is no folder. Reads in threads, holds one chunk at a time.

    Args:
        progress: is called in the event loop before the first chunk, and when a chunk has been taken.
    """
    yield UploadAdapterRequest(header=header)
    if folder is None:
        return
    told = progress or (lambda done, total: None)
    done, total = 0, sum((folder / name).stat().st_size for name in FILES)
    told(done, total)
    for name in FILES:
        file = await asyncio.to_thread((folder / name).open, "rb")
        try:
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield UploadAdapterRequest(chunk=FileChunk(file=name, data=data))
                done += len(data)
                told(done, total)
        finally:
            file.close()


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for name in FILES:
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
