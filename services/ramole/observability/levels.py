"""The level of the log while a server runs: a file that each of its processes follows, as the gateway follows its keys.

A file needs no call to every process, works while a service is down, and is still there after a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from ramole.core.errors import Corrupt, InvalidInput
from ramole.core.private_files import write_private
from ramole.observability.logs import ROOT_LOGGER

LEVELS = ("debug", "info", "warning", "error")
FILE = "log-level"
"""Its name in data_dir."""

_LOOK_S = 0.5

_log = logging.getLogger(__name__)


class LevelFile:
    """The level that an operator has set; there is no file while it is that of the settings."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> str:
        """The level; '' = none is set. Raises Corrupt when the file holds something else."""
        try:
            level = self.path.read_text("ascii").strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise self._unusable(str(error)) from error
        if level not in LEVELS:
            raise self._unusable(f"{level[:40]!r} is no level")
        return level

    def write(self, level: str) -> None:
        """Sets a level; '' = that of the settings again. Raises InvalidInput for one that is none."""
        if level and level not in LEVELS:
            raise InvalidInput(f"{level[:40]!r} is no level", field="level", remedy=f"use {', '.join(LEVELS)}")
        if level:
            write_private(self.path, level + "\n")
        else:
            self.path.unlink(missing_ok=True)

    def stamp(self) -> tuple[int, int]:
        """Another one for another file."""
        try:
            stat = self.path.stat()
        except OSError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_ino

    def _unusable(self, why: str) -> Corrupt:
        return Corrupt(f"{self.path} cannot be used: {why}", field="level", remedy="set it by `ramole log-level`")


def follow_level(file: LevelFile, default: str) -> Callable[[], None]:
    """From now on the log has the level of the file within half a second, else `default`. Returns what ends that.

    In a thread of its own: what is worth a closer look may be an event loop that does nothing any more.
    """
    stop = Event()

    def follow() -> None:
        seen = None
        while True:
            stamp = file.stamp()
            if stamp != seen:
                seen = stamp
                try:
                    _set(file.read() or default)
                except Corrupt as error:
                    _log.error("the log level stays as it was: %s", error)
            if stop.wait(_LOOK_S):
                return

    thread = Thread(target=follow, name="log-level", daemon=True)
    thread.start()

    def unfollow() -> None:
        stop.set()
        thread.join()

    return unfollow


def _set(level: str) -> None:
    logger, wanted = logging.getLogger(ROOT_LOGGER), logging.getLevelNamesMapping()[level.upper()]
    before = logger.level
    if wanted != before:
        logger.setLevel(min(before, wanted))  # the change is told by whichever of both lets it be told
        _log.info("the log level is %s", level)
        logger.setLevel(wanted)
