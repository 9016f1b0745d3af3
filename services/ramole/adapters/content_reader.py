"""The contents of the store at hand on this machine: in the store's own folder, or in the disk tier if it is remote."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from ramole.adapters.store.store import Store
from ramole.core.errors import Corrupt, NotFound
from ramole.lora.content import Content
from ramole.observability.tiers import Tier, TierCounts, TierMetrics
from ramole.tiers.disk import DiskTier
from ramole.tiers.host import HostTier

_READERS = 4


class ContentReader:
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
            lambda digest: self._pool.submit(self._read, digest), 0, negative_s=negative_s, missing_s=0.0
        )
        self._lock = Lock()
        self._counts = TierCounts()  # of the store
        metrics.watch(Tier.DISK, lambda: disk.counts)
        metrics.watch(Tier.STORE, lambda: self._counts, is_sized=False)

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
        folder = self._store.folder(digest)
        if folder is not None:
            self._count(hits=1)
            return folder
        if self._disk.path(digest) is None:
            await self.get(digest)
        return self._disk.path(digest)

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
        cached = self._disk.get(digest) if folder is None else None
        if cached is not None:
            self._metrics.loaded(Tier.DISK, time.perf_counter() - started_s)
            return cached
        try:
            content = self._read_store(digest, folder)
        except (NotFound, Corrupt) as error:
            self._count(misses=1, failures=int(isinstance(error, Corrupt)))
            raise
        except Exception:
            self._count(failures=1)
            raise
        self._count(hits=1)
        if folder is None:
            self._disk.put(digest, content, is_wanted=lambda: self._store.has_digest(digest))
        self._metrics.loaded(Tier.STORE, time.perf_counter() - started_s)
        return content

    def _read_store(self, digest: str, folder: Path | None) -> Content:
        try:
            return self._store.read(digest) if folder is None else Content.of_folder(folder, digest)
        except (FileNotFoundError, NotFound):
            if self._store.has_digest(digest):
                raise Corrupt(
                    f"the store has lost the files of {digest}",
                    field="digest",
                    remedy="restore the store from a backup, or delete the adapter and upload it again",
                ) from None
            raise NotFound(f"no adapter has digest {digest}", field="digest", remedy="it was deleted") from None

    def _count(self, *, hits: int = 0, misses: int = 0, failures: int = 0) -> None:
        with self._lock:  # the readers are threads
            self._counts.hits += hits
            self._counts.misses += misses
            self._counts.failures += failures
