"""Brings the index in line with the store, which is the source of truth."""

from __future__ import annotations

import logging

from ramole.core.errors import WrongState
from ramole.core.names import AdapterName, AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.reindex import batches, latest

_log = logging.getLogger(__name__)


async def reconcile(backends: Backends) -> tuple[int, int]:
    """Gives every name's latest live version its row and removes every other row.

    Others may upload and remove meanwhile, here and in other gateways: the rows are read before the store, and what
    looks wrong is looked at once more before it is touched. Returns how many adapters were indexed, and how many rows
    removed.

    Raises:
        RamoleError: a service failed.
    """
    rows = set(await backends.indexed())
    wanted = latest([ref async for ref in backends.live()])
    orphans = [ref for ref in sorted(rows - wanted, key=str) if not await _may_have_row(backends, ref)]
    await backends.unindex(orphans)
    lost = wanted - rows
    live = (await backends.generations())[:1]
    num_indexed = 0
    try:
        async for batch in batches(backends.live_records(sorted(lost, key=str))):
            await backends.index(batch, live[0].encoder_id if live else "")
            await backends.unindex([record.ref for record in batch if not await backends.is_live(record.ref)])
            num_indexed += len(batch)
    except WrongState as error:
        if error.field != "encoder_id":
            raise
        _log.warning("adapters cannot be retrieved until the index is rebuilt with `ramole reindex`: %s", error)
    if orphans or num_indexed:
        _log.info("index reconciled", extra={"fields": {"indexed": num_indexed, "removed": len(orphans)}})
    return num_indexed, len(orphans)


async def _may_have_row(backends: Backends, ref: AdapterRef) -> bool:
    """Whether it is the latest live version now, or about to be: an upload is indexed just before it is live."""
    record = await backends.find(AdapterName(ref.tenant, ref.name, ref.version))
    if record is None or record.ref != ref:
        return False
    newest = await backends.find(AdapterName(ref.tenant, ref.name)) if record.is_live else None
    return not record.is_live or (newest is not None and newest.ref == ref)
