"""What a process of the system logs, as its settings say and as `ramole log-level` changes it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from ramole.core.settings import Settings
from ramole.observability.levels import LevelFile, follow_level
from ramole.observability.logs import setup_logging


def log_to(stream: TextIO, settings: Settings) -> Callable[[], None]:
    """Logs to `stream`, usually standard error, and follows the level. Returns what ends the following.

    Args:
        settings: resolved.
    """
    options = settings.logging
    setup_logging(stream, options.level.upper(), "INFO" if options.access else "WARNING")
    return follow_level(LevelFile(settings.data_dir), options.level)
