"""Where an executor gets adapters that it does not hold: this machine's disk tier, else the adapters service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ramole.core.errors import Corrupt
from ramole.lora.content import Content
from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights
from ramole.observability.tiers import Tier, TierMetrics
from ramole.tiers.disk import DiskTier
from ramole.transport.stubs import reading
from ramole.v1 import adapters_pb2

if TYPE_CHECKING:
    from ramole.v1.adapters_pb2_grpc import AdaptersAsyncStub

FETCH_TIMEOUT_S = 60.0
# Each holds the files of one adapter in memory until its weights are read out of them.
_MAX_LOADS = 8

_BROKEN_TRANSFER = "retry in a few seconds; if it stays, read the log of the adapters service"

_log = logging.getLogger(__name__)


class AdapterSource:
    """Belongs to one event loop.

    Args:
        machine: of this process: files of an adapters service on the same machine are read, not sent; '' = never.
    """

    def __init__(self, adapters: AdaptersAsyncStub, disk: DiskTier, metrics: TierMetrics, *, machine: str) -> None:
        self._adapters = adapters
        self._disk = disk
        self._metrics = metrics
        self._machine = machine
        self._turns = asyncio.Semaphore(_MAX_LOADS)
        self._fetches: dict[str, object] = {}  # the newest of each digest that nobody has dropped

    async def load(self, digest: str) -> AdapterWeights:
        """The weights of one adapter, ready for the device.

        Raises:
            RamoleError: there is no such adapter, its files are broken, or the service is down.
        """
        async with self._turns:
            started_s = time.perf_counter()
            tier, content = Tier.DISK, await asyncio.to_thread(self._disk.get, digest)
            if content is None:
                tier, content = Tier.STORE, await self._fetch(digest)
            weights = await asyncio.to_thread(read_adapter, content.config_json, content.tensors)
            self._metrics.loaded(tier, time.perf_counter() - started_s)
            return weights

    async def drop(self, digest: str) -> None:
        """Frees the files of a digest on disk. Fetches that are under way do not put them there again."""
        self._fetches.pop(digest, None)
        await asyncio.to_thread(self._disk.drop, digest)

    async def _fetch(self, digest: str) -> Content:
        this = self._fetches[digest] = object()
        try:
            return await self._take_over(digest, lambda: self._fetches.get(digest) is this)
        finally:
            if self._fetches.get(digest) is this:
                del self._fetches[digest]

    async def _take_over(self, digest: str, is_wanted: Callable[[], bool]) -> Content:
        folder, content = await self._ask(digest, self._machine)
        if folder is not None:
            try:
                return await asyncio.to_thread(Content.copy_of_folder, folder, digest)
            except (OSError, Corrupt) as error:
                # Removed meanwhile, in another container, or broken: the service can tell, and may have better files.
                _log.info("files of %s are not taken over from %s: %s", digest, folder, error)
            _, content = await self._ask(digest, "")
        if content is None:
            raise Corrupt(f"no bytes of adapter {digest} arrived", field="digest", remedy=_BROKEN_TRANSFER)
        await asyncio.to_thread(content.verified, digest)
        await asyncio.to_thread(self._disk.put, digest, content, is_wanted=is_wanted)
        return content

    async def _ask(self, digest: str, machine: str) -> tuple[Path | None, Content | None]:
        """The folder that the service hands over, or the content that it sends."""
        config, data, size = b"", bytearray(), -1
        request = adapters_pb2.FetchRequest(digest=digest, machine=machine)
        async with reading(self._adapters.Fetch(request, timeout=FETCH_TIMEOUT_S)) as parts:
            async for part in parts:
                match part.WhichOneof("part"):
                    case "folder":
                        return Path(part.folder), None
                    case "header":
                        config, size = part.header.config_json, part.header.size
                    case _:
                        data += part.data
        if size != len(data):
            raise Corrupt(
                f"{len(data)} of {size} bytes of adapter {digest} arrived", field="digest", remedy=_BROKEN_TRANSFER
            )
        return None, Content(config, memoryview(data))
