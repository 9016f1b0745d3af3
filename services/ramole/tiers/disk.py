"""Adapter files on a local disk: ``<folder>/<aa>/<digest>/`` with both files. Survives restarts; nothing depends on it.

Several processes of a machine may share a folder. A folder of a digest appears and disappears as a whole, and what is
read is verified, so a file that is torn, tampered with or removed costs a look at the store and no more.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from uuid import uuid4

from ramole.core.errors import Corrupt
from ramole.lora.config import CONFIG_FILE
from ramole.lora.content import Content
from ramole.lora.header import TENSORS_FILE
from ramole.observability.tiers import TierCounts

_DRAFTS = "drafts"
_DRAFT_LIFE_S = 3600.0
# How far an eviction goes below the limit: the next one, which reads the whole folder, is then that far away.
_SLACK = 0.1

_log = logging.getLogger(__name__)


class _Entry(NamedTuple):
    used_at: float
    num_bytes: int
    folder: Path


class DiskTier:
    """All methods block and are safe in any thread; none raises for the state of the disk.

    Args:
        folder: made when it is first needed.
        max_bytes: of all files; the least recently used go first. 0 keeps nothing. Processes that share the folder
            notice each other's files when they evict, so that it may be exceeded by a tenth for each of them.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._counts = TierCounts()
        with self._lock:
            self._take_stock()

    @property
    def counts(self) -> TierCounts:
        """What happened so far, in this process; bytes and entries as last counted."""
        return self._counts

    def path(self, digest: str) -> Path | None:
        """The folder of a digest, not verified; None when it is not here."""
        folder = self._path(digest)
        return folder if folder.is_dir() else None

    def get(self, digest: str) -> Content | None:
        """Maps and verifies the files of a digest. None when they are not here or broken; those are removed."""
        folder = self._path(digest)
        try:
            content = Content.of_folder(folder, digest)
            os.utime(folder)
        except (Corrupt, OSError) as error:
            with self._lock:
                self._counts.misses += 1
            if isinstance(error, Corrupt) or folder.exists():
                _log.warning("cached files of %s are dropped: %s", digest, error)
                with self._lock:
                    self._counts.failures += 1
                    self._remove(folder)
                    self._take_stock()  # nobody knows what had become of its size
            return None
        with self._lock:
            self._counts.hits += 1
        return content

    def put(self, digest: str, content: Content) -> bool:
        """Keeps a content. False when it is too large or the disk does not take it: the caller goes on without."""
        target = self._path(digest)
        if content.num_bytes > self._max_bytes or target.exists():
            return target.exists()
        with self._lock:
            self._make_room(content.num_bytes)
        draft = self._folder / _DRAFTS / uuid4().hex
        try:
            draft.mkdir(parents=True)
            (draft / CONFIG_FILE).write_bytes(content.config_json)
            (draft / TENSORS_FILE).write_bytes(content.tensors)
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(target)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if target.exists():  # another process was first
                return True
            with self._lock:
                self._counts.failures += 1
            _log.warning("adapter files are not cached in %s: %s", self._folder, error)
            return False
        with self._lock:
            self._counts.num_bytes += content.num_bytes
            self._counts.num_entries += 1
        return True

    def drop(self, digest: str) -> None:
        """Frees the files of a digest. Missing is fine; maps of them stay readable until they are closed."""
        with self._lock:
            self._remove(self._path(digest))

    def _make_room(self, num_bytes: int) -> None:
        if self._counts.num_bytes + num_bytes <= self._max_bytes:
            return
        entries = sorted(self._take_stock())
        limit = max(0, int(self._max_bytes * (1 - _SLACK)) - num_bytes)
        for entry in entries:
            if self._counts.num_bytes <= limit:
                break
            self._counts.evictions += 1
            self._remove(entry.folder, entry.num_bytes)

    def _take_stock(self) -> list[_Entry]:
        """Reads what the folder holds, whoever put it there, and removes drafts that were never finished."""
        entries = list(self._entries())
        self._counts.num_bytes = sum(entry.num_bytes for entry in entries)
        self._counts.num_entries = len(entries)
        with suppress(OSError):
            for draft in (self._folder / _DRAFTS).iterdir():
                if draft.stat().st_mtime < time.time() - _DRAFT_LIFE_S:
                    shutil.rmtree(draft, ignore_errors=True)
        return entries

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(OSError):  # another process may remove it meanwhile
                num_bytes = sum(path.stat().st_size for path in folder.iterdir())
                yield _Entry(folder.stat().st_mtime, num_bytes, folder)

    def _remove(self, folder: Path, num_bytes: int | None = None) -> None:
        doomed = self._folder / _DRAFTS / uuid4().hex
        try:
            doomed.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(doomed)
        except OSError:
            return
        if num_bytes is None:
            num_bytes = sum(path.stat().st_size for path in doomed.iterdir())
        self._counts.num_bytes -= num_bytes
        self._counts.num_entries -= 1
        shutil.rmtree(doomed, ignore_errors=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
