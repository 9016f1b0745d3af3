"""A line of the table of faults."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ramole.lab.chaos.history import History


@dataclass(frozen=True, slots=True)
class Row:
    """What one fault cost.

    Attributes:
        requests: in the time of the fault and the recovery.
        failed: of them, with the tries that they had.
        lost: acknowledged uploads.
        recovery_s: from the fault until the last request failed.
        bound: what is promised of it: ``none`` = no request fails, else how long requests may.
    """

    fault: str
    requests: int
    failed: int
    lost: int
    recovery_s: float
    codes: dict[str, int]
    bound: str


def row_of(fault: str, history: History, since_s: float, bound: str) -> Row:
    """What the history tells of a fault that struck at `since_s`."""
    asked = [one for one in history.asked if one.end_s >= since_s]
    return Row(
        fault,
        len(asked),
        len(history.failed(since_s)),
        len(history.lost),
        round(history.recovery_s(since_s), 1),
        dict(Counter(one.code for one in asked)),
        bound,
    )
