"""Adapter files on a local disk: ``<folder>/<aa>/<digest>/`` with both files. Survives restarts; nothing depends on it.

Several processes of a machine may share a folder. A folder of a digest appears and disappears as a whole, and what is
read is verified, so a file that is torn, tampered with or removed costs a look at the store and no more.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from uuid import uuid4

from ramole.core.errors import Corrupt
from ramole.lora.content import Content
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.observability.tiers import TierCounts

_DRAFTS = "drafts"
_DRAFT_LIFE_S = 3600.0
# A share of the limit. An eviction goes that far below it, and the folder is read again after so many new bytes: often
# enough to see what other processes have put there, and seldom enough to be cheap.
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
        max_bytes: of all files; the least recently used go first. 0 keeps nothing. Processes that share the folder do
            not see each other's new files at once, so that it may be exceeded by a tenth for each of them, and by what
            is being written.
        read: a folder of a digest, verified.
    """

    def __init__(self, folder: Path, max_bytes: int, read: Callable[[Path, str], Content] = Content.of_folder) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._read = read
        self._lock = Lock()
        self._counts = TierCounts()
        self._sizes: dict[Path, int] = {}  # what is counted: only that may be subtracted again
        self._new_bytes = 0  # put since the folder was read
        with self._lock:
            self._take_stock()

    @property
    def counts(self) -> TierCounts:
        """What this process did so far; bytes and entries as it last read the folder, and its own changes since."""
        return self._counts

    def path(self, digest: str) -> Path | None:
        """The folder of a digest, not verified; None when it is not here."""
        folder = self._path(digest)
        return folder if folder.is_dir() else None

    def get(self, digest: str) -> Content | None:
        """Reads and verifies the files of a digest. None when they are not here or broken; those are removed."""
        folder = self._path(digest)
        try:
            content = self._read(folder, digest)
            os.utime(folder)
        except (Corrupt, OSError) as error:
            with self._lock:
                self._counts.misses += 1
            if isinstance(error, Corrupt) or folder.exists():
                _log.warning("cached files of %s are dropped: %s", digest, error)
                with self._lock:
                    self._counts.failures += 1
                    self._remove(folder)
            return None
        with self._lock:
            self._counts.hits += 1
        return content

    def put(self, digest: str, content: Content, *, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Keeps a content. False when it is too large or the disk does not take it: the caller goes on without.

        Args:
            is_wanted: asked in the last moment, and no `drop` comes between its answer and what follows. Who makes it
                say no before a drop can be sure that nothing stays.
        """
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
            with self._lock:
                if not is_wanted():
                    return False
                target.parent.mkdir(parents=True, exist_ok=True)
                draft.rename(target)
                self._count(target, content.num_bytes)
        except OSError as error:
            if target.exists():  # another process was first
                return True
            with self._lock:
                self._counts.failures += 1
            _log.warning("adapter files are not cached in %s: %s", self._folder, error)
            return False
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True

    def drop(self, digest: str) -> None:
        """Frees the files of a digest. Missing is fine; maps of them stay readable until they are closed."""
        with self._lock:
            self._remove(self._path(digest))

    def _make_room(self, num_bytes: int) -> None:
        is_stale = self._new_bytes + num_bytes > self._max_bytes * _SLACK
        if not is_stale and self._counts.num_bytes + num_bytes <= self._max_bytes:
            return
        entries = sorted(self._take_stock())
        if self._counts.num_bytes + num_bytes <= self._max_bytes:
            return
        limit = max(0, int(self._max_bytes * (1 - _SLACK)) - num_bytes)
        for entry in entries:
            if self._counts.num_bytes <= limit:
                break
            self._counts.evictions += 1
            self._remove(entry.folder)

    def _take_stock(self) -> list[_Entry]:
        """Reads what the folder holds, whoever put it there, and removes drafts that were never finished."""
        entries = list(self._entries())
        self._sizes = {entry.folder: entry.num_bytes for entry in entries}
        self._counts.num_bytes = sum(self._sizes.values())
        self._counts.num_entries = len(self._sizes)
        self._new_bytes = 0
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

    def _remove(self, folder: Path) -> None:
        doomed = self._folder / _DRAFTS / uuid4().hex
        with suppress(OSError):  # another process may have removed it
            doomed.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        if not folder.exists():
            self._uncount(folder)

    def _count(self, folder: Path, num_bytes: int) -> None:
        self._uncount(folder)  # it may have been removed by another process, and be here again
        self._sizes[folder] = num_bytes
        self._counts.num_bytes += num_bytes
        self._counts.num_entries = len(self._sizes)
        self._new_bytes += num_bytes

    def _uncount(self, folder: Path) -> None:
        self._counts.num_bytes -= self._sizes.pop(folder, 0)
        self._counts.num_entries = len(self._sizes)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
