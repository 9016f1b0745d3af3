"""Durable file operations. A power cut leaves the old state or the new one; after a return, the new one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Creates `path` with these bytes on disk. Not atomic: for files in a scratch folder that is renamed later."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, scratch: Path) -> None:
    """Atomically makes `data` the content of `path`. `scratch` is a folder on the same file system."""
    draft = scratch / uuid4().hex
    try:
        write_file(draft, data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file, durably. Missing is fine."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_folder(folder: Path, scratch: Path) -> None:
    """Removes a folder: it is gone at once under its name, then its content is freed. Missing is fine."""
    doomed = scratch / uuid4().hex
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    sync_folder(folder.parent)
    shutil.rmtree(doomed)
