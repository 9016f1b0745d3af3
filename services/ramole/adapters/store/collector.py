"""Frees contents that no version names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from ramole.adapters.store.catalog import Catalog
from ramole.adapters.store.objects import Objects
from ramole.adapters.store.writer import Writer
from ramole.core.errors import Unavailable

_log = logging.getLogger(__name__)


class Collector:
    """Of one store.

    Args:
        lock: held by whoever changes the catalog.
    """

    def __init__(self, objects: Objects, catalog: Catalog, writer: Writer, lock: Lock) -> None:
        self._objects = objects
        self._catalog = catalog
        self._writer = writer
        self._lock = lock
        self._held: Counter[str] = Counter()

    @contextmanager
    def holding(self, digest: str) -> Iterator[None]:
        """Keeps a content that no version names yet; what is not named at the end is freed."""
        with self._lock:
            self._held[digest] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[digest] -= 1
                self._held += Counter()  # drops the zero
                self.free(digest)

    def free(self, digest: str) -> None:
        """Removes a content that is not used any more; the lock is held. What cannot be removed is left to `sweep`.

        A server that was replaced frees nothing: its successor may have just made a version of the same content.
        """
        if self._is_used(digest):
            return
        try:
            self._writer.check()
            self._objects.remove(digest)
        except (Unavailable, OSError) as error:
            _log.warning("object %s is freed later: %s", digest, error)

    def sweep(self) -> int:
        """Frees all objects that no version names: remains of uploads that a crash ended. Returns how many.

        Raises:
            Unavailable: another server has opened the store since.
        """
        num_freed = 0
        for digest in self._objects.digests():
            with self._lock:
                if not self._is_used(digest):
                    with self._writer.changing():
                        self._objects.remove(digest)
                    num_freed += 1
        return num_freed

    def _is_used(self, digest: str) -> bool:
        return digest in self._held or self._catalog.has_digest(digest)
