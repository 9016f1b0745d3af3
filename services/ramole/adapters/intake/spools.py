"""The room that uploads in flight share."""

from __future__ import annotations

from threading import Lock

from ramole.core.errors import LimitExceeded
from ramole.tiers.reserve import Reserve

# About how long an upload takes.
_UPLOAD_S = 5.0


class SpoolRoom:
    """Counts the bytes of all uploads between their first chunk and their end. Safe in any thread.

    Args:
        reserve: what uploads leave of the disk.
    """

    def __init__(self, max_bytes: int, reserve: Reserve | None = None) -> None:
        self._max_bytes = max_bytes
        self._reserve = reserve
        self._num_bytes = 0
        self._lock = Lock()

    def take(self, num_bytes: int) -> None:
        """Raises LimitExceeded when that much is not left, of the room or of the disk."""
        if self._reserve is not None:
            self._reserve.check(num_bytes)
        with self._lock:
            if self._num_bytes + num_bytes > self._max_bytes:
                raise LimitExceeded(
                    f"the uploads in flight hold {self._num_bytes} of {self._max_bytes} bytes",
                    field="adapters.max_spool_bytes",
                    remedy="retry when other uploads have ended, or have the operator raise adapters.max_spool_bytes",
                    retry_after_s=_UPLOAD_S,
                )
            self._num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Of an upload that has ended."""
        with self._lock:
            self._num_bytes -= num_bytes
