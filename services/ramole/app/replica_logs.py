"""What replicas on Ray log of trouble, brought to where the operator looks. Ray itself keeps it in files."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TextIO

_PERIOD_S = 0.5
# As `observability.logs` writes them. Not parsed: there is a line for each call.
_TROUBLE = re.compile(rb'\{"time": "[^"]*", "level": "(warning|error|critical)", ')


class ReplicaLogs:
    """Copies the warnings and errors of all replicas, line by line as they were written; never the access log.

    Args:
        folder: of Ray's log files.
        stream: usually standard error.
    """

    def __init__(self, folder: Path, stream: TextIO) -> None:
        self._folder = folder
        self._stream = stream
        self._read: dict[Path, int] = {}

    async def follow(self) -> None:
        """Copies again and again, until it is cancelled."""
        while True:
            await asyncio.to_thread(self.copy)
            await asyncio.sleep(_PERIOD_S)

    def copy(self) -> None:
        """Copies what is new, complete lines only."""
        for path in sorted(self._folder.glob("worker-*.err")):
            try:
                start = self._read.get(path, 0)
                if path.stat().st_size <= start:
                    continue
                with path.open("rb") as file:
                    file.seek(start)
                    text = file.read()
            except OSError:  # removed meanwhile
                continue
            whole, newline, _ = text.rpartition(b"\n")
            self._read[path] = start + len(whole) + len(newline)
            for line in whole.splitlines():
                if _TROUBLE.match(line):
                    self._stream.write(line.decode("utf-8", "replace") + "\n")
        self._stream.flush()
