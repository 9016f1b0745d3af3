"""Files of local folders that an operator has opened to clients, and of no other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import IO

from ramole.core.errors import InvalidInput

# What the kernel says to a link or to something that is no file: O_NOFOLLOW, O_DIRECTORY, a socket.
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO)


def open_below(path: str, roots: Sequence[str]) -> IO[bytes]:
    """Opens a regular file that really lies below one of `roots`. Links on the way may lead anywhere below it.

    Raises:
        InvalidInput: a link leads out of the roots, or it is no regular file.
        OSError: it does not exist, or cannot be read.
    """
    real = os.path.realpath(path)
    root = next((root for root in map(os.path.realpath, roots) if real.startswith(f"{root.rstrip('/')}/")), None)
    if root is None:
        raise _refuse(f"{path[:160]!r} is a link to elsewhere")
    # The real path had no link a moment ago. It is walked without following any, so nobody can put one there now.
    *folders, name = os.path.relpath(real, root).split("/")
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for inner in folders:
                outer, folder = folder, os.open(inner, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(outer)
            # Without O_NONBLOCK a pipe would wait for somebody to write to it.
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _refuse(f"{path[:160]!r} is no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _refuse(f"{path[:160]!r} is no regular file")
    return os.fdopen(handle, "rb")


def _refuse(message: str) -> InvalidInput:
    return InvalidInput(message, field="header.source", remedy="name a folder with two regular files")
