"""The adapters service on the wire: validates, converts, delegates. Disk and tensors are handled in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ramole.adapters.audit import open_audit
from ramole.adapters.codec import header_from_pb, page_token, position_from_token, record_to_pb, version_to_pb
from ramole.adapters.content_reader import ContentReader
from ramole.adapters.housekeeping import Housekeeping
from ramole.adapters.intake.ingest import Ingest
from ramole.adapters.intake.upload import Upload
from ramole.adapters.metrics import watch_store
from ramole.adapters.store.records import AdapterRecord, State
from ramole.adapters.store.store import Store, Version
from ramole.core import access
from ramole.core.bounds import DEFAULT_PAGE_SIZE, TEXTS, check_number, check_text
from ramole.core.errors import Corrupt, InvalidInput, NotFound, RamoleError, Unavailable
from ramole.core.names import AdapterRef, check_digest, check_tags
from ramole.core.settings import Settings
from ramole.lora.base import BaseShapes, read_base_shapes
from ramole.lora.ranks import slot_rank_for
from ramole.observability.tiers import TierMetrics
from ramole.tiers.disk import DiskTier
from ramole.tiers.machine import machine_id
from ramole.tiers.reserve import Reserve
from ramole.transport.service import Service
from ramole.transport.values import ref_from_pb, ref_to_pb
from ramole.v1 import adapters_pb2, adapters_pb2_grpc, gateway_pb2

CHUNK_BYTES = 2**20
# A page ends early rather than outgrow a gRPC message.
PAGE_BYTES = 2 * 2**20

_LOCK_PAUSE_S = 0.1
_LOCK_MARGIN_S = 1.0

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Opened:
    store: Store
    contents: ContentReader
    ingest: Ingest
    housekeeping: Housekeeping
    slot_rank: int


class AdaptersService(adapters_pb2_grpc.AdaptersServicer, Service):
    """Store and disk tier.

    Args:
        base: shapes of the served base model; read from `settings.base_model` at start when absent.
    """

    name = "adapters"
    full_name = "ramole.v1.Adapters"

    def __init__(self, settings: Settings, base: BaseShapes | None = None) -> None:
        self._settings = settings
        self._base = base
        self._audit = open_audit(settings)
        self._reserve = Reserve(settings.data_dir)
        self._machine = machine_id()
        self._opened: _Opened | None = None
        self._keeping_house: list[asyncio.Task[None]] = []

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
            base = await asyncio.to_thread(read_base_shapes, settings.base_model, base_id, settings.base_revision)
        store = await self._open_store()
        disk = await asyncio.to_thread(DiskTier, settings.cache_dir, settings.cache.disk_bytes)
        contents = ContentReader(store, disk, TierMetrics(self.registry), negative_s=settings.cache.negative_s)
        housekeeping = Housekeeping(settings.adapters, store, contents, self._audit, self._reserve)
        slot_rank = settings.executor.slot_rank
        if slot_rank == "auto":
            slot_rank = slot_rank_for(store.widest_rank(base.base_id))
            _log.info("adapters of up to rank %d are taken: executor.slot_rank is auto", slot_rank)
        self._opened = _Opened(store, contents, Ingest(settings, store, base, slot_rank), housekeeping, slot_rank)
        watch_store(self.registry, store)
        self._keeping_house = [asyncio.create_task(housekeeping.run())]
        if settings.adapters.store_uri:  # a folder has one server, by its lock
            self._keeping_house.append(asyncio.create_task(housekeeping.follow()))

    async def close(self) -> None:
        """Lets another process open the store."""
        for task in self._keeping_house:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._opened is not None:
            await asyncio.to_thread(self._opened.contents.close)
            store = self._opened.store
            with suppress(RamoleError, OSError):
                await asyncio.to_thread(store.save_catalog)
            store.close()

    async def Put(
        self, request_iterator: AsyncIterator[adapters_pb2.PutRequest], context: Context
    ) -> adapters_pb2.PutResponse:
        """Receives, admits and stages one upload."""
        opened = self._ready()
        with ExitStack() as places, opened.ingest.begin() as upload:
            async with self._audit.entry("upload", "") as entry:
                async for request in request_iterator:
                    part = request.upload
                    if part.HasField("header"):
                        entry.adapter = part.header.adapter[:200]
                        header = header_from_pb(part.header)
                        places.enter_context(opened.ingest.place(header.name.tenant))
                        opened.ingest.check_quota(header.name)
                        upload.begin(header)
                    else:
                        await _receive(upload, part)
                if upload.source:
                    entry.detail = upload.source[: TEXTS["header.source"].high]
                    await opened.ingest.fetch(upload)
                    entry.detail = upload.source
                record, is_created = await opened.ingest.stage(upload)
                entry.refs = [record.ref]
        return adapters_pb2.PutResponse(record=record_to_pb(record), created=is_created, is_live=_is_live(record))

    async def Restage(self, request: adapters_pb2.RestageRequest, context: Context) -> adapters_pb2.RestageResponse:
        """Stages the content of an older version as the next one."""
        opened = self._ready()
        async with self._audit.entry("rollback", request.adapter) as entry:
            name = access.named_to_change(request.adapter)
            opened.ingest.check_quota(name)
            record, is_created = await asyncio.to_thread(opened.store.restage, name, _expected(request))
            entry.refs, entry.detail = [record.ref], str(name)
        return adapters_pb2.RestageResponse(record=record_to_pb(record), created=is_created, is_live=_is_live(record))

    async def Publish(self, request: adapters_pb2.PublishRequest, context: Context) -> adapters_pb2.PublishResponse:
        """Makes a staged version live."""
        opened = self._ready()
        ref = ref_from_pb(request.adapter)
        async with self._audit.entry("publish", str(ref)) as entry:
            record = await asyncio.to_thread(opened.store.publish, ref)
            entry.refs, entry.detail = [ref], record.source
        # What is live stays acknowledged, whatever becomes of older versions.
        try:
            await opened.housekeeping.expire(record.name)
        except (RamoleError, OSError) as error:
            _log.warning("older versions of %s expire later: %s", record.name, error)
        return adapters_pb2.PublishResponse(record=record_to_pb(record))

    async def Discard(self, request: adapters_pb2.DiscardRequest, context: Context) -> adapters_pb2.DiscardResponse:
        """Drops a staged version."""
        opened = self._ready()
        ref = ref_from_pb(request.adapter)
        async with self._audit.entry("discard", str(ref)) as entry:
            entry.refs = [ref]
            await asyncio.to_thread(opened.store.discard, ref)
        opened.housekeeping.forget(ref.digest)
        return adapters_pb2.DiscardResponse()

    async def GetStored(
        self, request: adapters_pb2.GetStoredRequest, context: Context
    ) -> adapters_pb2.GetStoredResponse:
        """One version."""
        opened = self._ready()
        name = access.named(request.adapter)
        record = opened.store.get(name)
        if not _is_visible(opened.store, record):
            raise access.missing(name)
        if not request.without_samples:
            record = await asyncio.to_thread(opened.store.with_samples, record)
        return adapters_pb2.GetStoredResponse(record=record_to_pb(record), is_live=_is_live(record))

    async def ListStored(
        self, request: adapters_pb2.ListStoredRequest, context: Context
    ) -> adapters_pb2.ListStoredResponse:
        """One page of live versions."""
        opened, query = self._ready(), request.query
        if request.from_writer:
            await asyncio.to_thread(opened.store.check_writer)
        size = query.page_size or DEFAULT_PAGE_SIZE
        check_number("page_size", size)
        after, tags = position_from_token(query.page_token), set(check_tags(query.tags))

        def is_wanted(record: AdapterRecord) -> bool:
            return (
                _is_visible(opened.store, record)
                and query.base_model in ("", record.base_model)
                and query.tenant in ("", record.ref.tenant)
                and record.ref.name.startswith(query.name_prefix)
                and tags.issubset(record.tags)
                and (not query.latest_only or opened.store.is_latest(record))
            )

        # One more than asked for tells whether there is a next page.
        found = opened.store.page(after, size + 1, is_wanted)
        page, num_bytes, last = gateway_pb2.ListAdaptersResponse(), 0, None
        for record in found:
            full = record if query.without_samples else await asyncio.to_thread(_with_samples, opened.store, record)
            if full is not None:
                message = record_to_pb(full)
                num_bytes += message.ByteSize()
                if len(page.records) == size or (page.records and num_bytes > PAGE_BYTES):
                    break
                page.records.append(message)
            last = record.ref
        if found and last is not None and (last != found[-1].ref or len(found) > size):
            page.next_page_token = page_token(last)
        return adapters_pb2.ListStoredResponse(page=page)

    async def GetStoredHistory(
        self, request: adapters_pb2.GetStoredHistoryRequest, context: Context
    ) -> adapters_pb2.GetStoredHistoryResponse:
        """All versions of one name."""
        opened = self._ready()
        store, name = opened.store, access.named(request.adapter)
        versions = await asyncio.to_thread(store.history, name, partial(_is_visible, store))
        digests = {version.ref.digest for version in versions}
        return adapters_pb2.GetStoredHistoryResponse(
            entries=[version_to_pb(version) for version in versions],
            held_digests=sorted(digest for digest in digests if store.has_digest(digest)),
        )

    async def GetSlotRank(
        self, request: adapters_pb2.GetSlotRankRequest, context: Context
    ) -> adapters_pb2.GetSlotRankResponse:
        """How wide slots must be."""
        return adapters_pb2.GetSlotRankResponse(slot_rank=self._ready().slot_rank)

    async def DeleteStored(
        self, request: adapters_pb2.DeleteStoredRequest, context: Context
    ) -> adapters_pb2.DeleteStoredResponse:
        """Removes one version or all of a name."""
        opened = self._ready()
        check_text("comment", request.comment)
        store = opened.store
        action, remove = ("revoke", store.revoke) if request.is_revocation else ("delete", store.delete)
        async with self._audit.entry(action, request.adapter) as entry:
            entry.detail = request.comment
            name = access.named_to_change(request.adapter)

            def act() -> list[AdapterRef]:
                with self._reserve.opened():
                    return remove(name, comment=request.comment, expected_version=_expected(request))

            removed = entry.refs = await asyncio.to_thread(act)
        freed = sorted({ref.digest for ref in removed if not store.has_digest(ref.digest)})
        for digest in freed:
            opened.housekeeping.forget(digest)
        return adapters_pb2.DeleteStoredResponse(removed=[ref_to_pb(ref) for ref in removed], freed_digests=freed)

    async def Fetch(
        self, request: adapters_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        """Streams the files of one digest, staged or live: the index may know a version just before it is live."""
        opened = self._ready()
        digest = check_digest(request.digest)
        if not opened.store.has_digest(digest):
            raise NotFound(f"no adapter has digest {digest}", field="digest", remedy="it may have been deleted")
        is_near = request.machine == self._machine != ""
        folder = await opened.contents.folder(digest) if is_near else None
        if folder is not None:
            yield adapters_pb2.FetchResponse(folder=str(folder))
            return
        content = await opened.contents.get(digest)
        header = adapters_pb2.WeightsHeader(config_json=content.config_json, size=len(content.tensors))
        yield adapters_pb2.FetchResponse(header=header)
        for start in range(0, len(content.tensors), CHUNK_BYTES):
            yield adapters_pb2.FetchResponse(data=bytes(content.tensors[start : start + CHUNK_BYTES]))

    def _ready(self) -> _Opened:
        if self._opened is None:
            raise Unavailable("the adapter store is still opening", remedy="retry in a moment")
        return self._opened

    async def _open_store(self) -> Store:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_fixed(_LOCK_PAUSE_S),
            stop=stop_after_delay(self._settings.adapters.server.grace_s + _LOCK_MARGIN_S),
            reraise=True,
        )
        return await retrying(asyncio.to_thread, self._open_store_now)

    def _open_store_now(self) -> Store:
        options = self._settings.adapters
        with self._reserve.opened():
            return Store.open(self._settings.data_dir / "store", options.store_uri, options.store_options)


def _is_visible(store: Store, version: Version) -> bool:
    """Whether it exists for the caller."""
    return access.may_see(version.ref.tenant, is_public=store.is_public(version))


def _with_samples(store: Store, record: AdapterRecord) -> AdapterRecord | None:
    """A record of a page; None if it was removed meanwhile. One with a damaged manifest has no samples to show."""
    try:
        return store.with_samples(record)
    except NotFound:
        return None
    except Corrupt as error:
        _log.error("%s", error)
        return record


async def _receive(upload: Upload, request: gateway_pb2.UploadAdapterRequest) -> None:
    if not request.HasField("chunk"):
        raise InvalidInput("an empty message", field="part", remedy="send a header or a chunk")
    await asyncio.to_thread(upload.write, request.chunk.file, request.chunk.data)


def _is_live(record: AdapterRecord) -> bool:
    return record.state is State.LIVE


def _expected(request: adapters_pb2.RestageRequest | adapters_pb2.DeleteStoredRequest) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None
