"""Files that their owner alone may read: keys and secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import mkstemp


def write_private(path: Path, text: str, *, replaces: bool = True) -> None:
    """Writes a file whole or not at all, durably, for its owner only. Makes the folder.

    Args:
        replaces: whether it may exist already.

    Raises:
        FileExistsError: it exists, and may not.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replaces:
            draft.replace(path)
        else:
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def open_mode(path: Path) -> int:
    """The mode of a file, if others than its owner may do anything with it; else 0."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & (stat.S_IRWXG | stat.S_IRWXO) else 0
