"""The index rebuilt from the store, into a new generation, while the old one serves."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Sequence

from ramole.core.errors import Unavailable, WrongState
from ramole.core.names import AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.values import Record, Reindexed

_TEXTS_PER_BATCH = 256
_MAX_ROUNDS = 20

_log = logging.getLogger(__name__)


async def batches(records: AsyncIterable[Record]) -> AsyncGenerator[list[Record]]:
    """Records with about `_TEXTS_PER_BATCH` samples together."""
    batch: list[Record] = []
    async for record in records:
        batch.append(record)
        if sum(len(each.samples) for each in batch) >= _TEXTS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def latest(refs: Sequence[AdapterRef]) -> set[AdapterRef]:
    """The highest version of each name: what the index holds."""
    newest: dict[tuple[str, str], AdapterRef] = {}
    for ref in sorted(refs, key=lambda ref: ref.version):
        newest[ref.tenant, ref.name] = ref
    return set(newest.values())


class Reindexing:
    """Rebuilds of one index. One at a time here; two gateways that rebuild at once help each other."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._is_running = False

    async def run(self) -> AsyncGenerator[Reindexed]:
        """Embeds every adapter with the encoder of the settings, then lets the new generation serve.

        Uploads meanwhile go to both generations, removals too. When it is broken off, nothing has changed for requests;
        the next run with the same encoder goes on where this one stopped.

        Raises:
            WrongState: it runs already.
            RamoleError: a service failed.
        """
        if self._is_running:
            raise WrongState("the index is being rebuilt already", remedy="wait until it is done")
        self._is_running = True
        try:
            encoder_id, dim = await self._backends.own_encoder()
            number = await self._backends.build(encoder_id, dim)
            round_ = _Round(self._backends, number, encoder_id)
            for _ in range(_MAX_ROUNDS):
                async for progress in round_.run():
                    yield progress
                if not progress.changed:
                    break
            else:
                raise Unavailable("the store changes faster than it is embedded", remedy="run it again; it goes on")
            await self._backends.promote(number)
            _log.info("index rebuilt", extra={"fields": {"generation": number, "encoder_id": encoder_id}})
            async for progress in round_.run():
                yield progress
        finally:
            self._is_running = False


class _Round:
    """Brings one generation in line with the store as it is, again and again."""

    def __init__(self, backends: Backends, number: int, encoder_id: str) -> None:
        self._backends = backends
        self._number = number
        self._encoder_id = encoder_id
        self._written: set[AdapterRef] = set()
        self._unreadable: set[AdapterRef] = set()

    async def run(self) -> AsyncGenerator[Reindexed]:
        """The progress; the last value says whether there was anything to do."""
        live = [ref async for ref in self._backends.live()]
        # Only what was written here can be a leftover of an adapter that was removed meanwhile: a row that an upload
        # has just written is not live yet.
        gone = self._written - set(live)
        await self._backends.unindex(sorted(gone, key=str))
        self._written -= gone
        wanted = latest(live) - self._unreadable
        missing = wanted - set(await self._backends.indexed(self._number))
        done, total, changed = len(wanted) - len(missing), len(wanted), len(gone) + len(missing)
        yield Reindexed(self._number, self._encoder_id, done, total, changed)
        async for batch in batches(self._backends.live_records(sorted(missing, key=str))):
            await self._backends.index(batch, self._encoder_id, generation=self._number)
            self._written |= {record.ref for record in batch}
            done += len(batch)
            yield Reindexed(self._number, self._encoder_id, done, total, changed)
        # Deleted meanwhile, or damaged in the store: neither is tried again.
        self._unreadable |= missing - self._written
