"""The repository as callers see and change it: what both ports do, on the messages of the public service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import replace

from ramole.core import access
from ramole.core.bounds import check_number
from ramole.core.names import check_tags
from ramole.core.settings import GatewaySettings
from ramole.gateway.backends import Backends
from ramole.gateway.codec import route_to_pb
from ramole.gateway.metrics import GatewayMetrics
from ramole.gateway.reindex import Reindexing
from ramole.gateway.removals import Removals
from ramole.gateway.routing import AdapterChooser
from ramole.gateway.stages import Stages
from ramole.gateway.uploads import Uploads
from ramole.gateway.values import check_prompt
from ramole.transport.stubs import reading
from ramole.transport.values import ref_to_pb
from ramole.v1.adapters_pb2 import FetchRequest, GetStoredHistoryRequest, ListStoredRequest
from ramole.v1.gateway_pb2 import (
    DeleteAdapterRequest,
    DeleteAdapterResponse,
    DownloadAdapterRequest,
    DownloadAdapterResponse,
    DownloadHeader,
    GetAdapterRequest,
    GetAdapterResponse,
    GetHistoryRequest,
    GetHistoryResponse,
    ListAdaptersRequest,
    ListAdaptersResponse,
    ReindexResponse,
    RevokeAdapterRequest,
    RevokeAdapterResponse,
    RollbackAdapterRequest,
    RollbackAdapterResponse,
    RouteRequest,
    RouteResponse,
    UploadAdapterRequest,
    UploadAdapterResponse,
)


class Management:
    """Everything that the public service does beside answers. Each method is the RPC of its message, and raises so."""

    def __init__(
        self,
        backends: Backends,
        chooser: AdapterChooser,
        uploads: Uploads,
        removals: Removals,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        self._metrics = metrics
        self._backends = backends
        self._chooser = chooser
        self._uploads = uploads
        self._removals = removals
        self._reindexing = Reindexing(backends)
        self._settings = settings

    async def route(self, request: RouteRequest) -> RouteResponse:
        """What an answer would use."""
        prompt, default = check_prompt(request.prompt, self._settings.max_prompt_chars), self._settings.composition
        check_number("composition.k", request.k, at="k")
        composition = replace(default, k=request.k or default.k)
        return route_to_pb(await self._chooser.retrieve(prompt, composition, Stages(), tags=check_tags(request.tags)))

    async def upload(self, parts: AsyncIterable[UploadAdapterRequest]) -> UploadAdapterResponse:
        """Uploads one adapter; see `Uploads.upload`."""
        with self._metrics.upload():
            record, is_created = await self._uploads.upload(parts)
        return UploadAdapterResponse(record=record, created=is_created)

    async def get(self, request: GetAdapterRequest) -> GetAdapterResponse:
        """One version."""
        name = access.named(request.adapter)
        found = await self._backends.find(name, has_samples=not request.without_samples)
        if found is None or not found.is_live:  # an upload may be under way, and may still fail
            raise access.missing(name)
        return GetAdapterResponse(record=found.record)

    async def list(self, request: ListAdaptersRequest) -> ListAdaptersResponse:
        """One page of live versions."""
        return (await self._backends.adapters.ListStored(ListStoredRequest(query=request))).page

    async def history(self, request: GetHistoryRequest) -> GetHistoryResponse:
        """All versions of one name."""
        answer = await self._backends.adapters.GetStoredHistory(GetStoredHistoryRequest(adapter=request.adapter))
        return GetHistoryResponse(entries=answer.entries)

    async def download(self, request: DownloadAdapterRequest) -> AsyncGenerator[DownloadAdapterResponse]:
        """Both files of one version: a header, then the pieces of the weights."""
        found = await self.get(GetAdapterRequest(adapter=request.adapter, without_samples=True))
        ref = found.record.adapter
        async with reading(self._backends.adapters.Fetch(FetchRequest(digest=ref.digest))) as parts:
            async for part in parts:
                if part.HasField("header"):
                    header = DownloadHeader(adapter=ref, config_json=part.header.config_json, size=part.header.size)
                    yield DownloadAdapterResponse(header=header)
                else:
                    yield DownloadAdapterResponse(data=part.data)

    async def roll_back(self, request: RollbackAdapterRequest) -> RollbackAdapterResponse:
        """Makes an older version the latest again."""
        name = access.named_to_change(request.adapter)
        record, is_created = await self._uploads.roll_back_to(name, _expected(request))
        return RollbackAdapterResponse(record=record, created=is_created)

    async def delete(self, request: DeleteAdapterRequest) -> DeleteAdapterResponse:
        """Removes versions; running requests finish."""
        name, expected = access.named_to_change(request.adapter), _expected(request)
        removed = await self._removals.delete(name, comment=request.comment, expected_version=expected)
        return DeleteAdapterResponse(removed=[ref_to_pb(ref) for ref in removed])

    async def revoke(self, request: RevokeAdapterRequest) -> RevokeAdapterResponse:
        """Removes versions; running requests that use them are aborted."""
        name, expected = access.named_to_change(request.adapter), _expected(request)
        removed, aborted = await self._removals.revoke(name, comment=request.comment, expected_version=expected)
        return RevokeAdapterResponse(removed=[ref_to_pb(ref) for ref in removed], aborted=aborted)

    async def reindex(self) -> AsyncGenerator[ReindexResponse]:
        """Rebuilds the index, and tells how far it is."""
        access.check_operator()
        async with aclosing(self._reindexing.run()) as steps:
            async for step in steps:
                yield step


_Conditional = RollbackAdapterRequest | DeleteAdapterRequest | RevokeAdapterRequest


def _expected(request: _Conditional) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None
