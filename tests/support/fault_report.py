"""A line of the table of faults."""

from __future__ import annotations

from dataclasses import dataclass


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
