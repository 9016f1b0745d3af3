"""What a stage of the GPU report writes: one JSON line for each case, at once; what is cut off has lost nothing."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Records:
    """The cases of one stage.

    Attributes:
        path: of the lines.
        seconds: until the stage should be over.
    """

    path: Path
    seconds: float
    _since: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Until the stage should be over."""
        return self._since + self.seconds - time.monotonic()

    def add(self, case: str, **found: Any) -> None:
        """One case; `ok` says whether something is right, all others are figures."""
        with self.path.open("a") as file:
            file.write(json.dumps({"case": case, **found}, default=str) + "\n")

    def attempt(self, case: str, run: Callable[[], dict[str, Any]], *, needs_s: float = 0.0) -> None:
        """Runs a case and adds what it finds. An exception is what it finds, too, and ends nothing else."""
        if self.left_s < needs_s:
            self.add(case, skipped=f"{self.left_s:.0f} s are left, it needs {needs_s:.0f}")
            return
        since = time.monotonic()
        try:
            found = run()
        except Exception as error:
            found = {
                "ok": False,
                "error": f"{type(error).__name__}: {error}"[:600],
                "at": traceback.format_exc(limit=-3),
            }
        self.add(case, seconds=round(time.monotonic() - since, 3), **found)
