"""Retrieval on the wire: validates, converts, runs the blocking index in threads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from ramole.core.errors import InvalidInput, RamoleError, Unavailable, WrongState
from ramole.core.names import AdapterName
from ramole.core.settings import RetrievalSettings, Settings
from ramole.retrieval.metrics import RetrievalMetrics
from ramole.retrieval.values import IndexEntry, Row
from ramole.tiers.reserve import Reserve
from ramole.transport.service import Service
from ramole.transport.values import ref_from_pb, ref_to_pb
from ramole.transport.vectors import vector_from_pb
from ramole.v1 import retrieval_pb2, retrieval_pb2_grpc
from ramole.v1.common_pb2 import AdapterRef

if TYPE_CHECKING:
    from ramole.retrieval.generations import IndexGeneration
    from ramole.retrieval.index import VectorIndex

T = TypeVar("T")

_NUM_READERS = 8
"""Searches that run at once."""
_MAX_NAMES = 64
"""That narrow one search."""
_OPENING_PAUSE_S = 1.0
_PROBE_S = 2.0
"""How long an index that nobody asks may have gone unnoticed."""
_CALIBRATION_PAUSE_S, _FAILED_PAUSE_S = 5.0, 30.0
_COUNT_PAUSE_S, _COUNT_SHARE = 15.0, 200
"""Between two counts of the rows, at least; and in how many times what one takes."""

_log = logging.getLogger(__name__)


class RetrievalService(retrieval_pb2_grpc.RetrievalServicer, Service):
    """The vector index of one installation. Several replicas may share a Milvus server; one owns a Lite folder."""

    name = "retrieval"
    full_name = "ramole.v1.Retrieval"
    max_message_bytes = 16 * 2**20  # the 64 samples of one adapter, in as many dimensions as Milvus takes

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index: VectorIndex | None = None
        self._metrics = RetrievalMetrics(self.registry)
        self._metrics.is_up.set_function(lambda: self._index is not None)
        # A server has a disk of its own.
        self._reserve = None if "://" in settings.retrieval.uri else Reserve(settings.data_dir)
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="retrieval-read")
        # Writes wait for each other here, not in the readers' threads.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="retrieval-write")
        self._keeping: asyncio.Task[None] | None = None
        self._outage = Unavailable("the vector index is not open", remedy="retry in a moment")
        self._probed_s = float("-inf")

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        retrieval_pb2_grpc.add_RetrievalServicer_to_server(self, server)

    async def start(self) -> None:
        """Opens the index. One that does not answer is opened as soon as it does; until then it is an outage.

        Raises:
            WrongState: the embedded index is in use elsewhere.
        """
        await self._try_to_open()
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Finishes what runs and closes the index."""
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
        for pool in (self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown)
        if self._index is not None:
            await asyncio.to_thread(self._index.close)
            self._index = None

    async def check_ready(self) -> None:
        """Raises Unavailable while the index does not answer: this replica is well, but finds nothing."""
        index, now = self._ready(), time.monotonic()
        if index.has_failed or now - self._probed_s >= _PROBE_S:
            await self._run(self._readers, index.generations)
            self._probed_s = now

    async def Search(
        self, request: retrieval_pb2.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.SearchResponse:
        """The nearest live adapters."""
        index, vector = self._ready(), vector_from_pb(request.vector, field="vector")
        found = await self._run(
            self._readers,
            lambda: index.search(
                vector,
                encoder_id=request.encoder_id,
                base_model=request.base_model,
                tenant=request.tenant,
                k=request.k,
                tags=request.tags,
                without=_names(request.without, "without"),
                among=_names(request.among, "among"),
            ),
        )
        self._metrics.searched(found)
        return retrieval_pb2.SearchResponse(
            hits=[retrieval_pb2.Hit(adapter=ref_to_pb(hit.ref), similarity=hit.similarity) for hit in found.hits],
            doubt=found.doubt,
            of_few=found.is_of_few,
        )

    async def Upsert(
        self, request: retrieval_pb2.UpsertRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.UpsertResponse:
        """Makes adapter versions findable."""
        index = self._ready()
        entries = [
            IndexEntry(
                Row(ref_from_pb(each.adapter), each.base_model, each.is_public, tuple(each.tags)),
                [vector_from_pb(sample, field=f"samples[{i}]") for i, sample in enumerate(each.samples)],
            )
            for each in request.adapters
        ]

        def upsert() -> Iterable[IndexGeneration]:
            if self._reserve is not None:
                self._reserve.check()
            return index.upsert(entries, encoder_id=request.encoder_id, number=request.generation)

        generations = await self._run(self._writer, upsert)
        return retrieval_pb2.UpsertResponse(generations=_generations_to_pb(generations))

    async def Remove(
        self, request: retrieval_pb2.RemoveRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.RemoveResponse:
        """Takes adapter versions out."""
        index = self._ready()
        refs = [ref_from_pb(adapter) for adapter in request.adapters]

        def remove() -> None:
            with self._opened_reserve():
                index.remove(refs)

        await self._run(self._writer, remove)
        return retrieval_pb2.RemoveResponse()

    async def ListRows(
        self, request: retrieval_pb2.ListRowsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[retrieval_pb2.ListRowsResponse]:
        """Streams every row."""
        batches = self._ready().rows(request.generation)
        # One thread for all of it: a cancelled call may close the listing only after the batch that it is reading.
        thread = ThreadPoolExecutor(1, thread_name_prefix="retrieval-list")
        try:
            while batch := await self._run(thread, lambda: next(batches, None)):
                for row in batch:
                    yield retrieval_pb2.ListRowsResponse(adapter=ref_to_pb(row.ref))
        finally:
            thread.submit(batches.close)
            thread.shutdown(wait=False)

    async def ListGenerations(
        self, request: retrieval_pb2.ListGenerationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.ListGenerationsResponse:
        """What must hold every adapter."""
        generations = await self._run(self._readers, self._ready().generations)
        return retrieval_pb2.ListGenerationsResponse(generations=_generations_to_pb(generations))

    async def BuildGeneration(
        self, request: retrieval_pb2.BuildGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.BuildGenerationResponse:
        """Begins a generation."""
        index = self._ready()
        number = await self._run(self._writer, lambda: index.build(request.encoder_id, request.dim))
        return retrieval_pb2.BuildGenerationResponse(generation=number)

    async def PromoteGeneration(
        self, request: retrieval_pb2.PromoteGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.PromoteGenerationResponse:
        """Lets a generation serve."""
        index = self._ready()
        await self._run(self._readers, lambda: index.promote(request.generation))  # waits for searches to end
        return retrieval_pb2.PromoteGenerationResponse()

    async def _try_to_open(self) -> None:
        try:
            self._index = await asyncio.to_thread(self._open)
        except Unavailable as error:
            self._outage = error

    def _open(self) -> VectorIndex:
        with self._opened_reserve():
            return _open(self._settings)

    def _opened_reserve(self) -> AbstractContextManager[None]:
        return nullcontext() if self._reserve is None else self._reserve.opened()

    async def _keep(self) -> None:
        while self._index is None:
            await asyncio.sleep(_OPENING_PAUSE_S)
            await self._try_to_open()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_calibrated(self._index))
            group.create_task(self._keep_counted(self._index))

    async def _keep_calibrated(self, index: VectorIndex) -> None:
        """Learns how much to doubt what searches find, again whenever the repository has changed much."""
        base_model = self._settings.base_id or self._settings.base_model
        while True:
            pause_s = _CALIBRATION_PAUSE_S
            try:
                if await asyncio.get_running_loop().run_in_executor(self._readers, index.calibrate, base_model):
                    _log.info("learned how much to doubt what is found", extra={"fields": {"base_model": base_model}})
            except RamoleError as error:
                _log.warning("doubt is learned later: %s", error)
                pause_s = _FAILED_PAUSE_S
            except Exception:  # whatever it is, searches go on without doubt
                _log.exception("doubt cannot be learned")
                pause_s = _FAILED_PAUSE_S
            await asyncio.sleep(pause_s)

    async def _keep_counted(self, index: VectorIndex) -> None:
        """Counts the rows for the metrics, and takes no more than a small part of the time for it."""
        while True:
            started_s = time.monotonic()
            try:
                self._metrics.counted(await self._run(self._readers, index.count))
            except RamoleError as error:
                _log.debug("rows are counted later: %s", error)
            except Exception:  # whatever it is, searches go on
                _log.exception("rows cannot be counted")
            await asyncio.sleep(max(_COUNT_PAUSE_S, _COUNT_SHARE * (time.monotonic() - started_s)))

    def _ready(self) -> VectorIndex:
        if self._index is None:
            raise self._outage.at(self._outage.field)  # a new one: each raise adds to an error's traceback
        return self._index

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        # With the context, so that lines logged there carry the request id.
        return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, call)


def _names(refs: Sequence[AdapterRef], field: str) -> list[AdapterName]:
    if len(refs) > _MAX_NAMES:
        raise InvalidInput(f"{len(refs)} adapters", field=field, remedy=f"give at most {_MAX_NAMES}")
    return [AdapterName(ref.tenant, ref.name) for ref in refs]


def _generations_to_pb(generations: Iterable[IndexGeneration]) -> list[retrieval_pb2.Generation]:
    return [retrieval_pb2.Generation(number=each.number, encoder_id=each.encoder_id) for each in generations]


def _token(options: RetrievalSettings) -> str:
    if not options.token_file:
        return options.token
    try:
        return Path(options.token_file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise WrongState(
            f"{options.token_file} cannot be read",
            field="retrieval.token_file",
            remedy="name a file that the service can read",
        ) from error


def _open(settings: Settings) -> VectorIndex:
    """Opens the index that the settings name. Blocks; loads pymilvus."""
    from ramole.retrieval.generations import IndexType
    from ramole.retrieval.index import VectorIndex

    options = settings.retrieval
    return VectorIndex.open(
        options.uri or str(settings.data_dir / "index.db"),
        token=_token(options),
        ca_file=options.ca_file,
        timeout_s=options.timeout_s,
        best_of={"mean": 0, "max": 1, "best": options.best_of}[options.scoring],
        index_type=IndexType(options.index),
    )
