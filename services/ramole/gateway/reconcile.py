"""Brings the index in line with the store, which is the source of truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ramole.core.errors import Unavailable, WrongState
from ramole.gateway.backends import Backends
from ramole.gateway.reindex import batches, latest

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


async def reconcile(backends: Backends) -> tuple[int, int]:
    """Gives every name's latest live version its row and removes every other row.

    Run it while nothing is uploaded or deleted. Returns how many adapters were indexed and how many rows removed.
    """
    wanted = latest([ref async for ref in backends.live()])
    rows = set(await backends.indexed())
    lost, orphans = wanted - rows, rows - wanted
    for ref in sorted(orphans, key=str):
        await backends.unindex(ref)
    live = (await backends.generations())[:1]
    try:
        async for batch in batches(backends.live_records(lost)):
            await backends.index(batch, live[0].encoder_id if live else "")
    except WrongState as error:
        if error.field != "encoder_id":
            raise
        _log.warning("adapters cannot be retrieved until the index is rebuilt with `ramole reindex`: %s", error)
    if lost or orphans:
        _log.info("index reconciled", extra={"fields": {"indexed": len(lost), "removed": len(orphans)}})
    return len(lost), len(orphans)


async def until_available(
    step: Callable[[], Awaitable[Result]], *, limit_s: float = 300.0, longest_pause_s: float = 2.0
) -> Result:
    """Runs `step` until it raises no Unavailable: services that start together wait for each other.

    Raises:
        Unavailable: of the last try, when `limit_s` seconds were not enough.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    pause_s = 0.05
    while True:
        try:
            return await step()
        except Unavailable:
            if loop.time() + pause_s > end:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_pause_s)
