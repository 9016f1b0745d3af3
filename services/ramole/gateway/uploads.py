"""One upload: staged in the store, embedded, indexed, published; then, and only then, acknowledged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable

from ramole.core.errors import EncoderMismatch, NotFound, RamoleError, Unavailable
from ramole.core.names import AdapterName
from ramole.gateway.backends import Backends
from ramole.gateway.finisher import Finisher
from ramole.gateway.upkeep import Upkeep
from ramole.transport.values import ref_from_pb
from ramole.v1.adapters_pb2 import (
    DiscardRequest,
    PublishRequest,
    PutRequest,
    PutResponse,
    RestageRequest,
    RestageResponse,
)
from ramole.v1.gateway_pb2 import UploadAdapterRequest
from ramole.v1.records_pb2 import AdapterRecord
from ramole.v1.retrieval_pb2 import Generation

_log = logging.getLogger(__name__)


class Uploads:
    """All or nothing: a failed upload leaves neither a version nor a row behind.

    A crash in between leaves a staged version, which the store drops at its next start or after a while, and perhaps a
    row, which `Upkeep` removes.
    """

    def __init__(self, backends: Backends, finisher: Finisher, upkeep: Upkeep) -> None:
        self._backends = backends
        self._finisher = finisher
        self._upkeep = upkeep

    async def upload(self, parts: AsyncIterable[UploadAdapterRequest]) -> tuple[AdapterRecord, bool]:
        """Relays the stream and sees the version through to live.

        A client that goes away while it sends has uploaded nothing. One that goes away later has either uploaded
        everything or nothing: the rest runs to its end.

        Returns:
            The version, now live, and whether it was made: an earlier, equal upload may answer.

        Raises:
            RamoleError: as raised by the service that refused.
        """
        # Whatever the parts hold, the store validates all of them.
        return await self._see_through(
            await self._backends.adapters.Put(PutRequest(upload=part) async for part in parts)
        )

    async def roll_back_to(self, name: AdapterName, expected_version: int | None) -> tuple[AdapterRecord, bool]:
        """Makes an older version the latest again, as a new version, with the guarantees of an upload.

        Raises:
            NotFound: there is no such live version.
            Conflict: `expected_version` is not the latest.
        """
        request = RestageRequest(adapter=str(name), expected_version=expected_version)
        return await self._see_through(await self._backends.adapters.Restage(request))

    async def _see_through(self, staged: PutResponse | RestageResponse) -> tuple[AdapterRecord, bool]:
        if staged.is_live:
            return staged.record, staged.created
        return await self._finisher.finish(self._complete(staged)), staged.created

    async def restore(self, name: AdapterName) -> None:
        """Makes the latest live version of `name` findable, if there is one and it is retrieved: the index holds just
        that."""
        found = await self._backends.find(AdapterName(name.tenant, name.name), has_samples=True)
        if found is not None and found.is_live and found.record.samples:
            await self._index(found.record)
            ref = ref_from_pb(found.record.adapter)
            if not await self._backends.is_live(ref):  # removed meanwhile, before it had a row to remove
                await self._backends.unindex([ref])

    async def _complete(self, staged: PutResponse | RestageResponse) -> AdapterRecord:
        record = staged.record
        try:
            generations = await self._index(record) if record.samples else []
            published = await self._backends.adapters.Publish(PublishRequest(adapter=record.adapter))
        except BaseException as error:
            if staged.created:
                # What is left of this call's time may be what the failure was about.
                await self._finisher.finish(self._roll_back(record))
            else:  # it belongs to another upload, with the same key, that still runs or has just failed
                self._upkeep.ask()
                if isinstance(error, NotFound):
                    raise Unavailable("the first upload with this idempotency key failed", remedy="retry") from error
            raise
        await self._tried(self._catch_up(record, generations) if record.samples else self._hide(record), record)
        return published.record

    async def _hide(self, record: AdapterRecord) -> None:
        """Of a name whose latest version is only named no version is found."""
        ref = ref_from_pb(record.adapter)
        older = [each async for each in self._backends.live(AdapterName(ref.tenant, ref.name)) if each != ref]
        await self._backends.unindex(older)

    async def _catch_up(self, record: AdapterRecord, generations: list[Generation]) -> None:
        """A rebuild that began before this version was live has not found it in the store."""
        if await self._backends.generations() != generations:
            await self._index(record)

    async def _index(self, record: AdapterRecord) -> list[Generation]:
        """Makes `record` findable in every generation, and returns them. They may change while it runs."""
        generations = await self._backends.generations()
        done: set[str] = set()
        while True:
            missing = [each.encoder_id for each in generations if each.encoder_id not in done]
            if generations and not missing:
                return generations
            encoder_id = missing[0] if missing else ""
            try:
                generations = await self._backends.index([record], encoder_id)
            except EncoderMismatch as error:
                known, generations = generations, await self._backends.generations()
                if known != generations:
                    continue
                if not generations or encoder_id == generations[0].encoder_id:
                    raise
                # An abandoned rebuild of an encoder that is no longer loaded: who takes it up again adds what it lacks.
                _log.warning("not indexed for encoder %s: %s", encoder_id, error)
            done.add(encoder_id or generations[0].encoder_id)

    async def _roll_back(self, record: AdapterRecord) -> None:
        """Undoes what may have been done, in an order in which no search finds what is gone.

        Restoring comes last: indexing this version took the row of the one before it, and if the version turns out to
        be live after all (its publication's answer was lost), it gets its row back.
        """
        ref = ref_from_pb(record.adapter)
        await self._tried(self._backends.unindex([ref]), record)
        await self._tried(self._backends.adapters.Discard(DiscardRequest(adapter=record.adapter)), record)
        await self._tried(self.restore(AdapterName(ref.tenant, ref.name)), record)

    async def _tried(self, step: Awaitable[object], record: AdapterRecord) -> None:
        try:
            await step
        except RamoleError as error:
            self._upkeep.ask()
            _log.warning("end of an upload: %s", error, extra={"fields": {"adapter": str(ref_from_pb(record.adapter))}})
