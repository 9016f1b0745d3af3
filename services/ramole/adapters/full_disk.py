"""A disk that takes no more, told to clients as the limit that it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ramole.core.errors import LimitExceeded

# Full, a quota of the user or group, and a limit of the process or file system on one file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def told_when_full() -> Iterator[None]:
    """Around writes below the server's data_dir.

    Raises:
        LimitExceeded: the disk is full; any other OSError passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise LimitExceeded(
            f"the server's disk takes no more: {os.strerror(error.errno)}",
            field="data_dir",
            remedy="retry later; the operator has to free space on the disk of data_dir, or to raise its quota",
        ) from error
