"""How wide slots must be for what a repository holds."""

from __future__ import annotations

LEAST_SLOT_RANK = 16


def slot_rank_for(widest: int) -> int:
    """The slot rank of a repository whose widest adapter has rank `widest`; 0 = it is empty."""
    return max(LEAST_SLOT_RANK, widest)
