"""The index rebuilt from the store, into a new generation, while the old one serves."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable

from ramole.core.errors import Unavailable, WrongState
from ramole.core.names import AdapterRef
from ramole.gateway.backends import Backends
from ramole.transport.values import ref_from_pb
from ramole.v1.embedding_pb2 import DescribeEncoderRequest
from ramole.v1.gateway_pb2 import ReindexResponse
from ramole.v1.records_pb2 import AdapterRecord
from ramole.v1.retrieval_pb2 import BuildGenerationRequest, PromoteGenerationRequest

_TEXTS_PER_BATCH = 256
_MAX_ROUNDS = 20

_log = logging.getLogger(__name__)


async def batches(records: AsyncIterable[AdapterRecord]) -> AsyncGenerator[list[AdapterRecord]]:
    """Records with about `_TEXTS_PER_BATCH` samples together."""
    batch: list[AdapterRecord] = []
    async for record in records:
        batch.append(record)
        if sum(len(each.samples) for each in batch) >= _TEXTS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class Reindexing:
    """Rebuilds of one index. One at a time here; two gateways that rebuild at once help each other."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._is_running = False

    async def run(self) -> AsyncGenerator[ReindexResponse]:
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
            retrieval = self._backends.retrieval
            encoder = await self._backends.embedding.DescribeEncoder(DescribeEncoderRequest())
            request = BuildGenerationRequest(encoder_id=encoder.encoder_id, dim=encoder.dim)
            number = (await retrieval.BuildGeneration(request)).generation
            round_ = _Round(self._backends, number, encoder.encoder_id)
            for _ in range(_MAX_ROUNDS):
                async for progress in round_.run():
                    yield progress
                if not round_.num_changed:
                    break
            else:
                raise Unavailable("the store changes faster than it is embedded", remedy="run it again; it goes on")
            await retrieval.PromoteGeneration(PromoteGenerationRequest(generation=number))
            _log.info("index rebuilt", extra={"fields": {"generation": number, "encoder_id": encoder.encoder_id}})
            async for progress in round_.run():
                yield progress
        finally:
            self._is_running = False


class _Round:
    """Brings one generation in line with the store as it is, again and again.

    Attributes:
        num_changed: adapters that were not in line when the last `run` began.
    """

    def __init__(self, backends: Backends, number: int, encoder_id: str) -> None:
        self._backends = backends
        self._number = number
        self._encoder_id = encoder_id
        self._written: set[AdapterRef] = set()
        self._unreadable: set[AdapterRef] = set()
        self.num_changed = 0

    async def run(self) -> AsyncGenerator[ReindexResponse]:
        """The progress, at least once."""
        findable = await self._backends.findable()
        # Only what was written here can be a leftover of an adapter that was removed or replaced meanwhile: a row that
        # an upload has just written is not live yet.
        gone = self._written - findable
        await self._backends.unindex(sorted(gone, key=str))
        self._written -= gone
        wanted = findable - self._unreadable
        missing = wanted - set(await self._backends.indexed(self._number))
        self.num_changed = len(gone) + len(missing)
        done, total = len(wanted) - len(missing), len(wanted)
        yield self._progress(done, total)
        async for batch in batches(self._backends.live_records(sorted(missing, key=str))):
            await self._backends.index(batch, self._encoder_id, generation=self._number)
            self._written |= {ref_from_pb(record.adapter) for record in batch}
            done += len(batch)
            yield self._progress(done, total)
        # Deleted meanwhile, or damaged in the store: neither is tried again.
        self._unreadable |= missing - self._written

    def _progress(self, done: int, total: int) -> ReindexResponse:
        return ReindexResponse(generation=self._number, encoder_id=self._encoder_id, done=done, total=total)
