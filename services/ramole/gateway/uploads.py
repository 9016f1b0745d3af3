"""One upload: staged in the store, embedded, indexed, published; then, and only then, acknowledged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable
from typing import Any

from ramole.core.errors import NotFound, RamoleError, Unavailable, WrongState
from ramole.core.names import AdapterName
from ramole.gateway.backends import Backends
from ramole.gateway.finisher import Finisher
from ramole.gateway.upkeep import Upkeep
from ramole.gateway.values import Generation, Record, Stored

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

    async def upload(self, parts: AsyncIterable[Any]) -> Stored:
        """Relays the stream and sees the version through to live.

        A client that goes away while it sends has uploaded nothing. One that goes away later has either uploaded
        everything or nothing: the rest runs to its end.

        Raises:
            RamoleError: as raised by the service that refused.
        """
        return await self._see_through(await self._backends.put(parts))

    async def roll_back_to(self, name: AdapterName, expected_version: int | None) -> Stored:
        """Makes an older version the latest again, as a new version, with the guarantees of an upload.

        Raises:
            NotFound: there is no such live version.
            Conflict: `expected_version` is not the latest.
        """
        return await self._see_through(await self._backends.restage(name, expected_version))

    async def _see_through(self, stored: Stored) -> Stored:
        if stored.record.is_live:
            return stored
        record = await self._finisher.finish(self._complete(stored))
        return Stored(record, stored.is_created)

    async def restore(self, name: AdapterName) -> None:
        """Makes the latest live version of `name` findable, if there is one: the index holds just that."""
        record = await self._backends.find(AdapterName(name.tenant, name.name), has_samples=True)
        if record is not None and record.is_live:
            await self._index(record)
            if not await self._backends.is_live(record.ref):  # removed meanwhile, before it had a row to remove
                await self._backends.unindex([record.ref])

    async def _complete(self, stored: Stored) -> Record:
        record = stored.record
        try:
            generations = await self._index(record)
            published = await self._backends.publish(record.ref)
        except BaseException as error:
            if stored.is_created:
                # What is left of this call's time may be what the failure was about.
                await self._finisher.finish(self._roll_back(record))
            else:  # it belongs to another upload, with the same key, that still runs or has just failed
                self._upkeep.ask()
                if isinstance(error, NotFound):
                    raise Unavailable("the first upload with this idempotency key failed", remedy="retry") from error
            raise
        await self._tried(self._catch_up(record, generations), record)
        return published

    async def _catch_up(self, record: Record, generations: tuple[Generation, ...]) -> None:
        """A rebuild that began before this version was live has not found it in the store."""
        if await self._backends.generations() != generations:
            await self._index(record)

    async def _index(self, record: Record) -> tuple[Generation, ...]:
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
            except WrongState as error:
                known, generations = generations, await self._backends.generations()
                if error.field == "encoder_id" and known != generations:
                    continue
                if error.field != "encoder_id" or not generations or encoder_id == generations[0].encoder_id:
                    raise
                # An abandoned rebuild of an encoder that is no longer loaded: who takes it up again adds what it lacks.
                _log.warning("not indexed for encoder %s: %s", encoder_id, error)
            done.add(encoder_id or generations[0].encoder_id)

    async def _roll_back(self, record: Record) -> None:
        """Undoes what may have been done, in an order in which no search finds what is gone.

        Restoring comes last: indexing this version took the row of the one before it, and if the version turns out to
        be live after all (its publication's answer was lost), it gets its row back.
        """
        await self._tried(self._backends.unindex([record.ref]), record)
        await self._tried(self._backends.discard(record.ref), record)
        await self._tried(self.restore(record.name), record)

    async def _tried(self, step: Awaitable[None], record: Record) -> None:
        try:
            await step
        except RamoleError as error:
            self._upkeep.ask()
            _log.warning("end of an upload: %s", error, extra={"fields": {"adapter": str(record.ref)}})
