"""Retention: which old versions of a name go. Policy only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ramole.adapters.store.records import AdapterRecord


def expired(versions: Sequence[AdapterRecord], *, keep_versions: int, oldest: datetime | None) -> list[AdapterRecord]:
    """Versions that are too many or too old; never the latest.

    Args:
        versions: the live ones of one name, oldest first.
        keep_versions: how many stay, the latest included; 0 = all.
        oldest: what was made before goes; None = nothing.
    """
    older = versions[:-1]
    surplus = max(0, len(versions) - keep_versions) if keep_versions else 0
    return [
        record
        for index, record in enumerate(older)
        if index < surplus or (oldest is not None and record.created_at < oldest)
    ]
