"""What the traffic has begun is in its history, also when the run ends meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ramole.lab.chaos.history import OK, Changed
from ramole.lab.chaos.traffic import Tenant, Traffic


async def test_a_revocation_that_is_broken_off_explains_what_is_gone() -> None:
    """The server may have done it, and an upload that is gone then is not lost."""
    ann = Tenant("ann", "key", ())
    traffic = Traffic("127.0.0.1:9", [ann], frozenset({"CANCELLED"}))
    traffic.history.changed.append(Changed("upload", "ann/new", 0.0, 0.0, OK))
    change = asyncio.create_task(traffic._change("revoke", ann, "new", asyncio.Event().wait()))
    await asyncio.sleep(0)
    change.cancel()
    with suppress(asyncio.CancelledError):
        await change
    await traffic.close()
    assert [(one.action, one.code) for one in traffic.history.changed] == [("upload", OK), ("revoke", "CANCELLED")]
    assert list(traffic.history.complaints()) == []
