"""Brings the index in line with the store, which is the source of truth."""

from __future__ import annotations

import logging

from ramole.core.errors import EncoderMismatch
from ramole.core.names import AdapterName, AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.reindex import batches
from ramole.transport.values import ref_from_pb

_log = logging.getLogger(__name__)


async def reconcile(backends: Backends) -> tuple[int, int]:
    """Gives every name's latest live version its row, if it is retrieved at all, and removes every other row.

    Others may upload and remove meanwhile, here and in other gateways: the rows are read before the store, and what
    looks wrong is looked at once more before it is touched. Returns how many adapters were indexed, and how many rows
    removed.

    Raises:
        RamoleError: a service failed.
    """
    rows = set(await backends.indexed())
    wanted = await backends.findable()
    orphans = [ref for ref in sorted(rows - wanted, key=str) if not await _may_have_row(backends, ref)]
    await backends.unindex(orphans)
    lost = wanted - rows
    live = (await backends.generations())[:1]
    num_indexed = 0
    try:
        async for batch in batches(backends.live_records(sorted(lost, key=str))):
            await backends.index(batch, live[0].encoder_id if live else "")
            refs = [ref_from_pb(record.adapter) for record in batch]
            await backends.unindex([ref for ref in refs if not await backends.is_live(ref)])
            num_indexed += len(batch)
    except EncoderMismatch as error:
        _log.warning("adapters cannot be retrieved until the index is rebuilt with `ramole reindex`: %s", error)
    if orphans or num_indexed:
        _log.info("index reconciled", extra={"fields": {"indexed": num_indexed, "removed": len(orphans)}})
    return num_indexed, len(orphans)


async def _may_have_row(backends: Backends, ref: AdapterRef) -> bool:
    """Whether it is the latest live version now, or about to be: an upload is indexed just before it is live."""
    found = await backends.find(AdapterName(ref.tenant, ref.name, ref.version))
    if found is None or ref_from_pb(found.record.adapter) != ref:
        return False
    if not found.is_live:
        return True
    newest = await backends.find(AdapterName(ref.tenant, ref.name))
    return newest is not None and ref_from_pb(newest.record.adapter) == ref and newest.record.report.num_samples > 0
