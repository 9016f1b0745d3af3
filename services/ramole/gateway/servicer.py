"""The public service on the wire: validates, converts, delegates to the flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from importlib.metadata import version
from typing import Any, ClassVar

import grpc

from ramole.core import access
from ramole.core.call import current_call
from ramole.core.errors import WrongState
from ramole.core.settings import Settings
from ramole.gateway.backends import Backends
from ramole.gateway.codec import (
    describe_to_pb,
    event_to_pb,
    k_from_pb,
    order_from_pb,
    prompt_from_pb,
    record_to_pb,
    routed_to_pb,
)
from ramole.gateway.finisher import Finisher
from ramole.gateway.generation import Generation
from ramole.gateway.reindex import Reindexing
from ramole.gateway.removals import Removals
from ramole.gateway.routing import Router
from ramole.gateway.stages import Stages
from ramole.gateway.upkeep import Upkeep, until_available
from ramole.gateway.uploads import Uploads
from ramole.transport.call_limit import Kind
from ramole.transport.peers import Peers
from ramole.transport.service import Service
from ramole.transport.values import ref_to_pb
from ramole.v1 import adapters_pb2, executor_pb2, gateway_pb2, gateway_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class GatewayService(gateway_pb2_grpc.GatewayServicer, Service):
    """Routes prompts, keeps store, index and devices in step.

    Args:
        peers: the internal services; closed by whoever opened them.
    """

    name = "gateway"
    full_name = "ramole.v1.Gateway"
    kinds: ClassVar[Mapping[str, Kind]] = {"DownloadAdapter": Kind.TRANSFER, "Reindex": Kind.WATCH}

    def __init__(self, settings: Settings, peers: Peers) -> None:
        self._settings = settings.gateway
        self._peers = peers
        self._base_id = settings.base_id or settings.base_model
        self._backends = Backends(peers, base_id=self._base_id)
        self._router = Router(self._backends, base_id=self._base_id, timeout_s=settings.retrieval.timeout_s)
        self._generation = Generation(self._backends, self._router)
        self._finisher = Finisher()
        self._upkeep = Upkeep(self._backends, patience_s=self._settings.index_patience_s)
        self._uploads = Uploads(self._backends, self._finisher, self._upkeep)
        self._removals = Removals(self._backends, self._uploads, self._finisher, self._upkeep)
        self._reindexing = Reindexing(self._backends)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        gateway_pb2_grpc.add_GatewayServicer_to_server(self, server)

    async def start(self) -> None:
        """Waits for the other services, and a while for the index to be in line with the store."""
        await self._upkeep.start()
        await until_available(lambda: self._peers.executor.GetStatusEverywhere(executor_pb2.GetStatusRequest()))

    async def close(self) -> None:
        """Lets uploads and removals that have begun run to their end."""
        await self._finisher.close()
        await self._upkeep.close()

    async def check_ready(self) -> None:
        """Raises Unavailable while no executor serves: this gateway is well, but no prompt would be answered here."""
        await self._peers.executor.check_any_serves("ramole.v1.Executor")

    async def Generate(
        self, request: gateway_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.GenerateEvent]:
        """Streams one answer."""
        if request.base_model not in ("", self._base_id):
            raise WrongState(
                f"{request.base_model!r} is not served here", field="base_model", remedy=f"leave it or {self._base_id}"
            )
        order = order_from_pb(request, self._settings)
        request_id = current_call().request_id
        async with aclosing(self._generation.run(order)) as events:
            async for event in events:
                yield event_to_pb(event, request_id=request_id, base_model=self._base_id)

    async def Route(self, request: gateway_pb2.RouteRequest, context: Context) -> gateway_pb2.RouteResponse:
        """What Generate would use."""
        k = k_from_pb(request.k, self._settings.composition)
        routing = await self._router.retrieve(prompt_from_pb(request.prompt, self._settings), k, Stages())
        return gateway_pb2.RouteResponse(
            adapters=[routed_to_pb(choice) for choice in routing.choices],
            embed_s=routing.embed_s,
            search_s=routing.search_s,
            doubt=routing.doubt,
        )

    async def UploadAdapter(
        self, request_iterator: AsyncIterator[adapters_pb2.UploadRequest], context: Context
    ) -> gateway_pb2.UploadAdapterResponse:
        """Uploads one adapter."""
        stored = await self._uploads.upload(request_iterator)
        return gateway_pb2.UploadAdapterResponse(record=record_to_pb(stored.record), created=stored.is_created)

    async def GetAdapter(
        self, request: adapters_pb2.GetAdapterRequest, context: Context
    ) -> adapters_pb2.GetAdapterResponse:
        """One version."""
        answer = await self._peers.adapters.GetAdapter(request)
        if answer.record.state != adapters_pb2.ADAPTER_STATE_LIVE:  # an upload is under way, and may still fail
            raise access.missing(access.named(request.adapter))
        return answer

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        """One page of live versions."""
        return await self._peers.adapters.ListAdapters(request)

    async def GetHistory(
        self, request: adapters_pb2.GetHistoryRequest, context: Context
    ) -> adapters_pb2.GetHistoryResponse:
        """All versions of one name."""
        return await self._peers.adapters.GetHistory(request)

    async def DownloadAdapter(
        self, request: gateway_pb2.DownloadAdapterRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        """Streams both files of one version."""
        asked = adapters_pb2.GetAdapterRequest(adapter=request.adapter, without_samples=True)
        ref = (await self.GetAdapter(asked, context)).record.adapter
        async with aclosing(self._peers.adapters.Fetch(adapters_pb2.FetchRequest(digest=ref.digest))) as parts:
            async for part in parts:
                if part.HasField("header"):
                    part.header.adapter.CopyFrom(ref)
                yield part

    async def RollbackAdapter(
        self, request: adapters_pb2.RollbackAdapterRequest, context: Context
    ) -> gateway_pb2.UploadAdapterResponse:
        """Makes an older version the latest again."""
        stored = await self._uploads.roll_back_to(access.named_to_change(request.adapter), _expected(request))
        return gateway_pb2.UploadAdapterResponse(record=record_to_pb(stored.record), created=stored.is_created)

    async def DeleteAdapter(
        self, request: adapters_pb2.DeleteAdapterRequest, context: Context
    ) -> adapters_pb2.DeleteAdapterResponse:
        """Removes versions; running requests finish."""
        name, expected = access.named_to_change(request.adapter), _expected(request)
        removed = await self._removals.delete(name, comment=request.comment, expected_version=expected)
        return adapters_pb2.DeleteAdapterResponse(removed=[ref_to_pb(ref) for ref in removed.refs])

    async def RevokeAdapter(
        self, request: gateway_pb2.RevokeAdapterRequest, context: Context
    ) -> gateway_pb2.RevokeAdapterResponse:
        """Removes versions; running requests that use them are aborted."""
        name, expected = access.named_to_change(request.adapter), _expected(request)
        removed = await self._removals.revoke(name, comment=request.comment, expected_version=expected)
        refs = [ref_to_pb(ref) for ref in removed.refs]
        return gateway_pb2.RevokeAdapterResponse(removed=refs, aborted=removed.aborted)

    async def Reindex(
        self, request: gateway_pb2.ReindexRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.ReindexProgress]:
        """Rebuilds the index."""
        access.check_operator()
        async with aclosing(self._reindexing.run()) as steps:
            async for step in steps:
                yield gateway_pb2.ReindexProgress(
                    generation=step.generation, encoder_id=step.encoder_id, done=step.done, total=step.total
                )

    async def Describe(self, request: gateway_pb2.DescribeRequest, context: Context) -> gateway_pb2.DescribeResponse:
        """The served base model, limits and load."""
        statuses = await self._peers.executor.GetStatusEverywhere(executor_pb2.GetStatusRequest())
        answer = describe_to_pb(
            statuses, version=version("ramole"), base_model=self._base_id, composition=self._settings.composition
        )
        if not access.may_operate():
            answer.ClearField("fullest_step")  # contents that other tenants use
        return answer


_Conditional = (
    adapters_pb2.RollbackAdapterRequest | adapters_pb2.DeleteAdapterRequest | gateway_pb2.RevokeAdapterRequest
)


def _expected(request: _Conditional) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None
