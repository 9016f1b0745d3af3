"""An adapter folder as a stream of upload messages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

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


async def upload_messages(
    folder: Path | None,
    *,
    adapter: str,
    samples: Sequence[str],
    base_model: str = "",
    idempotency_key: str = "",
    expected_version: int | None = None,
    is_public: bool = False,
    source: str = "",
) -> AsyncIterator[UploadAdapterRequest]:
    """The header, then both files in chunks unless there is no folder. Reads in threads, holds one chunk at a time.

    What was sent is what lay there when it began: the header says the sha256 of both files, and the server compares.
    """
    yield UploadAdapterRequest(
        header=message(
            UploadHeader,
            adapter=adapter,
            samples=samples,
            base_model=base_model,
            idempotency_key=idempotency_key,
            expected_version=expected_version,
            is_public=is_public,
            source=source,
            sha256={} if folder is None else await asyncio.to_thread(_hashes, folder),
        )
    )
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
