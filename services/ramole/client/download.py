"""A download stream as an adapter folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from ramole.core.errors import Corrupt
from ramole.core.names import AdapterRef
from ramole.lora.digest import content_digest
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.transport.values import ref_from_pb
from ramole.v1 import gateway_pb2


async def save_download(parts: AsyncIterator[gateway_pb2.DownloadAdapterResponse], folder: Path) -> AdapterRef:
    """Writes both files once all of them has arrived and their digest is right.

    Raises:
        Corrupt: it is not, or the stream is not one of an adapter.
    """
    ref, config_json = None, b""
    tensors = bytearray()
    async for part in parts:
        if part.HasField("header"):
            ref, config_json = ref_from_pb(part.header.adapter), part.header.config_json
        else:
            tensors += part.data
    if ref is None or content_digest(config_json, memoryview(tensors)) != ref.digest:
        raise Corrupt(f"what arrived is not {ref}", field="digest", remedy="download it again")
    await asyncio.to_thread(_save, folder, {CONFIG_FILE: config_json, TENSORS_FILE: tensors})
    return ref


def _save(folder: Path, files: dict[str, bytes | bytearray]) -> None:
    from tempfile import TemporaryDirectory  # a tenth of what a client imports beside gRPC

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".download-") as draft:
        for name, data in files.items():
            (Path(draft) / name).write_bytes(data)
        for name in files:
            (Path(draft) / name).replace(folder / name)
