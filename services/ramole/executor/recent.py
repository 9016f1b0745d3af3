"""The mean of what was seen lately."""

from __future__ import annotations

from collections import deque


class RecentMean:
    """Of the last so many seconds, and of no more than 256 values. One thread adds, any thread reads."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=256)

    def add(self, now_s: float, value: float) -> None:
        """Something was seen."""
        self._seen.append((now_s, value))

    def mean(self, now_s: float) -> float:
        """0 when nothing was."""
        values = [value for at_s, value in tuple(self._seen) if at_s > now_s - self._for_s]
        return sum(values) / len(values) if values else 0.0
