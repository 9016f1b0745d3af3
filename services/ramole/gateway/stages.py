"""How long each part has worked on a request, for the error that says which one was slow."""

from __future__ import annotations

import time
from collections.abc import Callable

from ramole.core.errors import DeadlineExceeded


class Stages:
    """A stopwatch that belongs to one request. At any moment the request waits for one part.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._part = ""
        self._since = 0.0

    def enter(self, part: str) -> None:
        """From now on the request waits for `part`; '' = for none."""
        now = self._clock()
        if self._part:
            self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    @property
    def slowest(self) -> str:
        """The part that took longest so far; '' before the first."""
        self.enter(self._part)
        return max(self._seconds, key=lambda part: self._seconds[part], default="")

    def __str__(self) -> str:
        self.enter(self._part)
        return ", ".join(
            f"{part} {seconds:.2f} s{' without an answer' if part == self._part else ''}"
            for part, seconds in self._seconds.items()
        )

    def too_slow(self) -> DeadlineExceeded:
        """The deadline passed: by whom."""
        return DeadlineExceeded(
            f"the deadline of the call passed: {self.slowest} was slow ({self})", remedy="give the call more time"
        )
