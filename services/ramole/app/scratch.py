"""A temporary folder that says whose it is: what a killed process leaves, the next start of any server removes.

The owner holds a lock on a file in it. The processes that work for it carry its path in their environment, so that
those of a dead owner are found, and never those of a living one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

SHORT = Path("/tmp")
PREFIX = "ramole-"
MARK = "RAY_RAMOLE_FOLDER"
"""Variable of the processes that belong to a folder."""

_OWNER = "owner"
_KILL_WAIT_S = 5.0
_REMOVE_S = 20.0
_PAUSE_S = 0.05
_NUM_QUIET = 3
"""How often in a row nothing must be there."""

_log = logging.getLogger(__name__)


class Scratch:
    """A folder of this process. Made by `make`.

    Attributes:
        path: below `SHORT` short enough for Unix sockets, whose paths are limited to 107 bytes.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, base: Path = SHORT) -> Scratch:
        """Makes one below `base`."""
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        # It gets its name when it is locked: a sweep takes an unlocked owner for a dead one.
        unnamed = path / f"{_OWNER}.new"
        lock = unnamed.open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(path / _OWNER)
        return cls(path, lock)

    def remove(self) -> None:
        """Ends every process that still belongs to it, and removes it."""
        _remove(self.path)
        self._lock.close()


def sweep(*bases: Path) -> None:
    """Removes the folders of this user whose owner is dead, and ends their processes. Blocks until these are gone.

    Args:
        bases: where to look; by default wherever there can be some.
    """
    for path in (path for base in bases or {SHORT, Path(tempfile.gettempdir())} for path in base.glob(f"{PREFIX}*")):
        try:
            is_ours = not path.is_symlink() and path.stat().st_uid == os.getuid()
            if not is_ours:
                continue
            with (path / _OWNER).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
        except OSError:  # it has no owner's file, or its owner lives, or another sweep was faster
            continue


def members(path: Path) -> list[psutil.Process]:
    """The processes that belong to a folder, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(path):
                found.append(process)
        except psutil.Error:  # another user's, or gone
            continue
    return found


def _remove(path: Path) -> None:
    """Until nothing is left of both and nothing comes again, but not for ever.

    A process that was just forked is seen as a member only once it runs its own program, and a start that was cut off
    goes on for a moment in its thread: either may write again what has just been removed.
    """
    end = time.monotonic() + _REMOVE_S
    num_quiet = 0
    while num_quiet < _NUM_QUIET:
        alive = members(path)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=_KILL_WAIT_S)
        num_quiet = 0 if alive or path.exists() else num_quiet + 1
        shutil.rmtree(path, ignore_errors=True)
        if time.monotonic() > end:
            _log.warning("%s cannot be removed", path)
            return
        if num_quiet < _NUM_QUIET:
            time.sleep(_PAUSE_S)
