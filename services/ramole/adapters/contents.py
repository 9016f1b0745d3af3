"""The contents of the store at hand on this machine: in the store's own folder, or in the disk tier if it is remote."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ramole.adapters.store import Store
from ramole.core.errors import Corrupt, NotFound
from ramole.lora.content import Content
from ramole.observability.tiers import Tier, TierMetrics
from ramole.tiers.disk import DiskTier
from ramole.tiers.host import HostTier

_READERS = 4


class Contents:
    """Reads each content once, however many ask at the same time. Keeps none in memory: the page cache does.

    Args:
        negative_s: how long a broken content is not read again.
    """

    def __init__(self, store: Store, disk: DiskTier, metrics: TierMetrics, *, negative_s: float) -> None:
        self._store = store
        self._disk = disk
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="contents")
        self._reads: HostTier[Content] = HostTier(
            lambda digest: self._pool.submit(self._read, digest), 0, negative_s=negative_s
        )
        metrics.watch(Tier.DISK, lambda: disk.counts)
        metrics.watch(Tier.STORE, lambda: self._reads.counts)

    async def get(self, digest: str) -> Content:
        """Both files, verified.

        Raises:
            NotFound: no version has this content.
            Corrupt: the store's files are broken or gone.
            Unavailable: the remote store does not answer.
        """
        return await asyncio.wrap_future(self._reads.get(digest))

    async def folder(self, digest: str) -> Path | None:
        """A local folder with both files, not verified; None when the disk tier cannot hold them. Raises as `get`."""
        folder = self._store.folder(digest) or self._disk.path(digest)
        if folder is None:
            await self.get(digest)
            folder = self._disk.path(digest)
        return folder

    def drop(self, digest: str) -> None:
        """Frees what the disk tier holds of a content that no version has any more."""
        self._reads.drop(digest)
        self._disk.drop(digest)

    def close(self) -> None:
        """Waits for reads that are under way."""
        self._pool.shutdown()

    def _read(self, digest: str) -> Content:
        started_s = time.perf_counter()
        folder = self._store.folder(digest)
        try:
            if folder is not None:
                content = Content.of_folder(folder, digest)
            else:
                cached = self._disk.get(digest)
                if cached is not None:
                    self._metrics.loaded(Tier.DISK, time.perf_counter() - started_s)
                    return cached
                content = self._store.read(digest)
                self._disk.put(digest, content)
        except (FileNotFoundError, NotFound):
            if self._store.has_digest(digest):
                raise Corrupt(
                    f"the store has lost the files of {digest}",
                    field="digest",
                    remedy="restore the store from a backup, or delete the adapter and upload it again",
                ) from None
            raise NotFound(f"no adapter has digest {digest}", field="digest", remedy="it was deleted") from None
        if not self._store.has_digest(digest):
            self._disk.drop(digest)
        self._metrics.loaded(Tier.STORE, time.perf_counter() - started_s)
        return content
