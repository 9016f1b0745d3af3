"""A disk that takes no more, told to clients as the limit that it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ramole.core.errors import LimitExceeded

# Full, a quota of the user or group, and a limit of the process or file system on one file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of space."""
    return error.errno in _FULL


def is_told_as_full(text: str) -> bool:
    """Whether an error that another library has made a text of was one of a full disk."""
    return any(f"[Errno {number}]" in text for number in _FULL)


def disk_full(why: str = os.strerror(errno.ENOSPC)) -> LimitExceeded:
    """What clients are told."""
    return LimitExceeded(
        f"the server's disk takes no more: {why}",
        field="data_dir",
        remedy="delete adapters that are not needed, or retry later; the operator has to free space on the disk of "
        "data_dir, or to raise its quota",
    )


@contextmanager
def told_when_full() -> Iterator[None]:
    """Around writes below the server's data_dir.

    Raises:
        LimitExceeded: the disk is full; any other OSError passes.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(os.strerror(error.errno or 0)) from error
