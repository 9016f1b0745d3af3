"""The adapters service on the wire: thin; validates, converts, delegates. Disk and tensors are handled in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from ramole.adapters.cache import HostCache
from ramole.adapters.codec import header_from_pb, page_token, position_from_token, record_to_pb
from ramole.adapters.records import AdapterRecord, NewAdapter
from ramole.adapters.store import Store
from ramole.adapters.upload import ReceivedUpload, Upload
from ramole.core.errors import InvalidInput, NotFound, RamoleError, Unavailable
from ramole.core.names import AdapterName, check_digest
from ramole.core.settings import Settings
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes, read_base_shapes
from ramole.transport.values import ref_from_pb, ref_to_pb
from ramole.v1 import adapters_pb2, adapters_pb2_grpc

CHUNK_BYTES = 2**20
DEFAULT_PAGE = 100
MAX_PAGE = 1000
# A page ends early rather than outgrow a gRPC message.
PAGE_BYTES = 2 * 2**20

# Each admission holds a whole adapter in memory.
_MAX_ADMISSIONS = 2

# Housekeeping is cheap but for the listing of all objects.
_HOUSEKEEPING_S = 3600.0

_LOCK_PAUSE_S = 0.1
_LOCK_MARGIN_S = 1.0

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Opened:
    store: Store
    cache: HostCache
    base: BaseShapes

    def forget(self, digest: str) -> None:
        """Frees the memory of a content that no version has any more."""
        if not self.store.has_digest(digest):
            self.cache.drop(digest)


class AdaptersService(adapters_pb2_grpc.AdaptersServicer):
    """Store and host cache.

    Args:
        base: shapes of the served base model; read from `settings.base_model` at start when absent.
    """

    full_name = "ramole.v1.Adapters"

    def __init__(self, settings: Settings, base: BaseShapes | None = None) -> None:
        self._settings = settings
        self._base = base
        # A wider adapter would be stored and then fit no slot of the executors.
        self._limits = AdmissionLimits(min(settings.adapters.max_rank, settings.executor.slot_rank))
        self._admissions = asyncio.Semaphore(_MAX_ADMISSIONS)
        self._opened: _Opened | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._inflight = 0

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        adapters_pb2_grpc.add_AdaptersServicer_to_server(self, server)

    async def start(self) -> None:
        """Reads the base model's shapes and opens the store.

        Raises:
            Unavailable: another process has the store open, and still has after the time that a replaced one may drain.
        """
        base, settings = self._base, self._settings
        if base is None:
            base_id = settings.base_id or settings.base_model
            base = await asyncio.to_thread(read_base_shapes, settings.base_model, base_id)
        store = await self._open_store()
        self._opened = _Opened(store, HostCache(store.read, settings.adapters.cache_bytes), base)
        self._housekeeping = asyncio.create_task(self._keep_house(store))

    async def close(self) -> None:
        """Frees the cache and lets another process open the store."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._housekeeping
        if self._opened is not None:
            await self._opened.cache.close()
            store = self._opened.store
            with suppress(RamoleError, OSError):
                await asyncio.to_thread(store.save_catalog)
            store.close()

    def routing_stats(self) -> dict[str, object]:
        """Nothing: any replica serves any adapter."""
        return {}

    def load(self) -> float:
        """Uploads and downloads in flight."""
        return float(self._inflight)

    async def Put(
        self, request_iterator: AsyncIterator[adapters_pb2.UploadRequest], context: Context
    ) -> adapters_pb2.PutResponse:
        """Receives, admits and stages one upload."""
        opened = self._ready()
        options = self._settings.adapters
        self._inflight += 1
        try:
            with Upload(
                opened.store.scratch, max_bytes=options.max_upload_bytes, max_samples=options.max_samples
            ) as upload:
                async for request in request_iterator:
                    await _receive(upload, request)
                received = await asyncio.to_thread(upload.finish)
                async with self._admissions:
                    record, is_created = await self._commit(opened, received)
        finally:
            self._inflight -= 1
        return adapters_pb2.PutResponse(record=record_to_pb(record), created=is_created)

    async def Publish(self, request: adapters_pb2.PublishRequest, context: Context) -> adapters_pb2.PublishResponse:
        """Makes a staged version live."""
        opened = self._ready()
        record = await asyncio.to_thread(opened.store.publish, ref_from_pb(request.adapter))
        return adapters_pb2.PublishResponse(record=record_to_pb(record))

    async def Discard(self, request: adapters_pb2.DiscardRequest, context: Context) -> adapters_pb2.DiscardResponse:
        """Drops a staged version."""
        opened = self._ready()
        ref = ref_from_pb(request.adapter)
        await asyncio.to_thread(opened.store.discard, ref)
        opened.forget(ref.digest)
        return adapters_pb2.DiscardResponse()

    async def GetAdapter(
        self, request: adapters_pb2.GetAdapterRequest, context: Context
    ) -> adapters_pb2.GetAdapterResponse:
        """One version."""
        opened = self._ready()
        record = opened.store.get(AdapterName.parse(request.adapter))
        if not request.without_samples:
            record = await asyncio.to_thread(opened.store.with_samples, record)
        return adapters_pb2.GetAdapterResponse(record=record_to_pb(record))

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        """One page of live versions."""
        opened = self._ready()
        size = request.page_size or DEFAULT_PAGE
        if size > MAX_PAGE:
            raise InvalidInput(f"{size} records a page", field="page_size", remedy=f"use 1 to {MAX_PAGE}")
        base = request.base_model
        after = position_from_token(request.page_token)
        # One more than asked for tells whether there is a next page.
        found = opened.store.page(after, size + 1, lambda record: base in ("", record.base_model))
        response, num_bytes = adapters_pb2.ListAdaptersResponse(), 0
        for record in found:
            if not request.without_samples:
                record = await asyncio.to_thread(opened.store.with_samples, record)  # noqa: PLW2901
            message = record_to_pb(record)
            num_bytes += message.ByteSize()
            if len(response.records) == size or (response.records and num_bytes > PAGE_BYTES):
                response.next_page_token = page_token(ref_from_pb(response.records[-1].adapter))
                break
            response.records.append(message)
        return response

    async def DeleteAdapter(
        self, request: adapters_pb2.DeleteAdapterRequest, context: Context
    ) -> adapters_pb2.DeleteAdapterResponse:
        """Removes one version or all of a name."""
        opened = self._ready()
        removed = await asyncio.to_thread(opened.store.delete, AdapterName.parse(request.adapter))
        for ref in removed:
            opened.forget(ref.digest)
        return adapters_pb2.DeleteAdapterResponse(removed=[ref_to_pb(ref) for ref in removed])

    async def Fetch(
        self, request: adapters_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        """Streams the files of one digest, staged or live: the index may know a version just before it is live."""
        opened = self._ready()
        digest = check_digest(request.digest)
        if not opened.store.has_digest(digest):
            raise NotFound(f"no adapter has digest {digest}", field="digest", remedy="it may have been deleted")
        self._inflight += 1
        try:
            content = await opened.cache.get(digest)
            header = adapters_pb2.WeightsHeader(config_json=content.config_json, size=len(content.tensors))
            yield adapters_pb2.FetchResponse(header=header)
            for start in range(0, len(content.tensors), CHUNK_BYTES):
                yield adapters_pb2.FetchResponse(data=content.tensors[start : start + CHUNK_BYTES])
        finally:
            self._inflight -= 1

    def _ready(self) -> _Opened:
        if self._opened is None:
            raise Unavailable("the adapter store is still opening", remedy="retry in a moment")
        return self._opened

    async def _keep_house(self, store: Store) -> None:
        while True:
            try:
                num_freed = await asyncio.to_thread(store.sweep)
                await asyncio.to_thread(store.save_catalog)
                _log.info("housekeeping", extra={"fields": {"objects_freed": num_freed}})
            except (RamoleError, OSError) as error:
                _log.warning("housekeeping is put off: %s", error)
            await asyncio.sleep(_HOUSEKEEPING_S)

    async def _open_store(self) -> Store:
        options = self._settings.adapters
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.adapters.server.grace_s + _LOCK_MARGIN_S
        while True:
            try:
                return await asyncio.to_thread(
                    Store.open, self._settings.data_dir / "store", options.store_uri, options.store_options
                )
            except Unavailable:
                if loop.time() > end:
                    raise
            await asyncio.sleep(_LOCK_PAUSE_S)

    async def _commit(self, opened: _Opened, received: ReceivedUpload) -> tuple[AdapterRecord, bool]:
        """Admits and stores in a thread. A caller that is gone meanwhile leaves no version behind."""
        work = asyncio.create_task(asyncio.to_thread(self._admit_and_put, opened, received))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread cannot be stopped, and needs the spooled file until it ends.
            with suppress(RamoleError):
                record, is_created = await work
                if is_created:
                    await asyncio.to_thread(opened.store.discard, record.ref)
            raise

    def _admit_and_put(self, opened: _Opened, received: ReceivedUpload) -> tuple[AdapterRecord, bool]:
        header = received.header
        admission = admit(
            received.config_json, received.tensors(), opened.base, self._limits, base_model=header.base_model
        )
        new = NewAdapter(
            name=header.name,
            base_model=opened.base.base_id,
            is_public=header.is_public,
            samples=header.samples,
            idempotency_key=header.idempotency_key,
            expected_version=header.expected_version,
            report=admission.report,
            num_bytes=received.num_bytes,
            digest=received.digest,
            config_json=received.config_json,
            tensors_path=received.tensors_path,
        )
        return opened.store.put(new)


async def _receive(upload: Upload, request: adapters_pb2.UploadRequest) -> None:
    match request.WhichOneof("part"):
        case "header":
            upload.begin(header_from_pb(request.header))
        case "chunk":
            await asyncio.to_thread(upload.write, request.chunk.file, request.chunk.data)
        case _:
            raise InvalidInput("an empty message", field="part", remedy="send a header or a chunk")
