"""Which machine this is: processes on one machine can hand files over by their paths."""

from __future__ import annotations

import socket
from pathlib import Path


def machine_id() -> str:
    """The same for processes that run on one Linux machine since its last boot; '' where nobody can tell.

    Containers of one machine may share it without sharing files: a path that is handed over is tried, never trusted.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{boot}/{socket.gethostname()}"
