"""Space of the data_dir that only what makes space may use: a full disk takes no upload, and still every removal.

A removal writes before it frees: a few lines in the store, a few in the embedded index. So a file of no content,
``<data_dir>/reserve``, holds that space while the disk has room, and goes when a removal or a start finds none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from ramole.tiers.full_disk import disk_full, is_full

RESERVE_BYTES = 16 * 2**20
"""At most; on a small disk a share of it, and none on one that is too small to have something to spare."""

_SHARE = 64
_MARGIN_BYTES = 2**20
"""What removals need at a time, with a wide berth."""

_log = logging.getLogger(__name__)


class Reserve:
    """The reserve of one data_dir. Every process that writes there may have one. Safe in any thread; never raises
    OSError.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir
        self._path = data_dir / "reserve"

    def fill(self) -> None:
        """Holds back what is missing, or as much of it as the disk has."""
        with suppress(OSError):
            wanted = self._wanted() - self._size()
            num_bytes = min(wanted, self._free() - _MARGIN_BYTES // 4)
            if num_bytes <= 0:
                return
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, self._size() + num_bytes)
            finally:
                os.close(handle)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Around what makes space, or must be done on a full disk: gives it the reserve if it finds no other space.

        Afterwards holds back again what is left of it.
        """
        if self._size() and not self._takes(_MARGIN_BYTES):
            _log.warning("the disk of %s is full: what is reserved for removals is used", self._folder)
            self._path.unlink(missing_ok=True)
        try:
            yield
        finally:
            self.fill()

    def check(self, num_bytes: int = 0) -> None:
        """Before what only needs space. Raises LimitExceeded when nothing but the reserve would be left of the disk."""
        with suppress(OSError):
            missing = self._wanted() - self._size()
            if self._wanted() and self._free() < num_bytes + missing + _MARGIN_BYTES // 4:
                raise disk_full()

    def _wanted(self) -> int:
        disk = os.statvfs(self._folder)
        share = disk.f_blocks * disk.f_frsize // _SHARE
        return min(RESERVE_BYTES, share) if share >= _MARGIN_BYTES else 0

    def _free(self) -> int:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def _size(self) -> int:
        """What it holds."""
        try:
            return self._path.stat().st_blocks * 512
        except OSError:
            return 0

    def _takes(self, num_bytes: int) -> bool:
        """Whether the disk does, quotas included."""
        try:
            with TemporaryFile(dir=self._folder) as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            return not is_full(error)
        return True
