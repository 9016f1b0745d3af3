"""Brings the index in line with the store, which is the source of truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ramole.core.errors import Unavailable
from ramole.core.names import AdapterName, AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.uploads import Uploads

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


async def reconcile(backends: Backends, uploads: Uploads) -> tuple[int, int]:
    """Gives every name's latest live version its row and removes every other row.

    Run it while nothing is uploaded or deleted. Returns how many adapters were indexed and how many rows removed.
    """
    latest: dict[tuple[str, str], AdapterRef] = {}
    async for ref in backends.live():
        known = latest.get((ref.tenant, ref.name))
        if known is None or known.version < ref.version:
            latest[ref.tenant, ref.name] = ref
    wanted = set(latest.values())
    rows = set(await backends.indexed())
    for ref in sorted(rows - wanted, key=str):
        await backends.unindex(ref)
    for ref in sorted(wanted - rows, key=str):
        await uploads.restore(AdapterName(ref.tenant, ref.name))
    indexed, removed = len(wanted - rows), len(rows - wanted)
    if indexed or removed:
        _log.info("index reconciled", extra={"fields": {"indexed": indexed, "removed": removed}})
    return indexed, removed


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
