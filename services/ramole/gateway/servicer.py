"""The public service on the wire: validates, converts, delegates to the flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar

import grpc

from ramole.core import access
from ramole.core.bounds import check_number
from ramole.core.call import current_call
from ramole.core.errors import WrongState
from ramole.core.settings import Settings
from ramole.gateway.answers import AnswerFlow
from ramole.gateway.backends import Backends
from ramole.gateway.codec import describe_to_pb, order_from_pb, route_to_pb, routing_to_pb
from ramole.gateway.finisher import Finisher
from ramole.gateway.http.app import make_app
from ramole.gateway.http.connection import ConnectionLimits
from ramole.gateway.http.edge import Edge
from ramole.gateway.http.models import Models
from ramole.gateway.http.openai import OpenAi
from ramole.gateway.http.server import HttpServer
from ramole.gateway.identity import keys_path
from ramole.gateway.keys import KeyFile
from ramole.gateway.reindex import Reindexing
from ramole.gateway.removals import Removals
from ramole.gateway.routing import AdapterChooser
from ramole.gateway.stages import Stages
from ramole.gateway.tenant_limits import TenantLimits
from ramole.gateway.upkeep import Upkeep, until_available
from ramole.gateway.uploads import Uploads
from ramole.gateway.values import Routing, check_prompt
from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import Kind
from ramole.transport.peers import Peers
from ramole.transport.service import Service
from ramole.transport.stubs import reading
from ramole.transport.tls import ServerTls
from ramole.transport.values import ref_to_pb
from ramole.v1 import adapters_pb2, common_pb2, executor_pb2, gateway_pb2, gateway_pb2_grpc
from ramole.v1.executor_pb2_grpc import ExecutorStub

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
        self._base_id = settings.base_id or settings.base_model
        self._backends = Backends(peers, base_id=self._base_id)
        self._chooser = AdapterChooser(self._backends, base_id=self._base_id, timeout_s=settings.retrieval.timeout_s)
        limits = TenantLimits(self._settings.limits, self._settings.tenant_limits)
        self._answers = AnswerFlow(self._backends, self._chooser, limits)
        self._finisher = Finisher()
        self._upkeep = Upkeep(self._backends, patience_s=self._settings.index_patience_s)
        self._uploads = Uploads(self._backends, self._finisher, self._upkeep)
        self._removals = Removals(self._backends, self._uploads, self._finisher, self._upkeep)
        self._reindexing = Reindexing(self._backends)
        self._http: HttpServer | None = None
        self._is_open = KeyFile(keys_path(settings)).is_empty

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        gateway_pb2_grpc.add_GatewayServicer_to_server(self, server)

    async def start(self) -> None:
        """Waits for the other services, and a while for the index to be in line with the store."""
        await self._upkeep.start()
        await until_available(self._statuses)

    async def open(self, bracket: CallBracket) -> None:
        """Serves HTTP, if it shall."""
        options = self._settings.http
        if options.port is None:
            return
        app = make_app(
            Edge(bracket, max_body_bytes=options.max_body_bytes, idle_s=self._settings.server.idle_s),
            OpenAi(self._answers, self._settings, self._base_id),
            Models(self._backends, self._base_id),
            check_ready=self.check_ready,
            version=version("ramole"),
            has_docs=self._settings.shows_itself(is_open=self._is_open),
        )
        tls = ServerTls(self._settings.tls) if self._settings.tls.is_on else None
        limits = ConnectionLimits(
            max_connections=options.max_connections,
            max_head_bytes=options.max_head_bytes,
            max_headers=options.max_headers,
            idle_s=self._settings.server.idle_s,
        )
        self._http = HttpServer(app, options.host, options.port, limits, tls)
        await self._http.start()

    @property
    def http_address(self) -> str:
        """``host:port`` of the HTTP port; '' while there is none."""
        return self._http.address if self._http is not None else ""

    async def drain(self, grace_s: float) -> None:
        """Lets HTTP calls end."""
        if self._http is not None:
            await self._http.stop(grace_s)

    async def close(self) -> None:
        """Lets uploads and removals that have begun run to their end."""
        await self._finisher.close()
        await self._upkeep.close()

    async def check_ready(self) -> None:
        """Raises Unavailable while no executor serves: this gateway is well, but no prompt would be answered here."""
        await self._backends.executor.check_any_serves("ramole.v1.Executor")

    async def Generate(
        self, request: gateway_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.GenerateResponse]:
        """Streams one answer."""
        if request.base_model not in ("", self._base_id):
            raise WrongState(
                f"{request.base_model!r} is not served here", field="base_model", remedy=f"leave it or {self._base_id}"
            )
        order = order_from_pb(request, self._settings)
        request_id = current_call().request_id
        async with aclosing(self._answers.run(order)) as events:
            async for event in events:
                if isinstance(event, Routing):
                    report = routing_to_pb(event, request_id=request_id, base_model=self._base_id)
                    yield gateway_pb2.GenerateResponse(routing=report)
                elif isinstance(event, common_pb2.TokenChunk):
                    yield gateway_pb2.GenerateResponse(chunk=event)
                else:
                    yield gateway_pb2.GenerateResponse(usage=event)

    async def Route(self, request: gateway_pb2.RouteRequest, context: Context) -> gateway_pb2.RouteResponse:
        """What Generate would use."""
        prompt, default = check_prompt(request.prompt, self._settings.max_prompt_chars), self._settings.composition
        check_number("composition.k", request.k, at="k")
        return route_to_pb(await self._chooser.retrieve(prompt, replace(default, k=request.k or default.k), Stages()))

    async def UploadAdapter(
        self, request_iterator: AsyncIterator[gateway_pb2.UploadAdapterRequest], context: Context
    ) -> gateway_pb2.UploadAdapterResponse:
        """Uploads one adapter."""
        record, is_created = await self._uploads.upload(request_iterator)
        return gateway_pb2.UploadAdapterResponse(record=record, created=is_created)

    async def GetAdapter(
        self, request: gateway_pb2.GetAdapterRequest, context: Context
    ) -> gateway_pb2.GetAdapterResponse:
        """One version."""
        name = access.named(request.adapter)
        found = await self._backends.find(name, has_samples=not request.without_samples)
        if found is None or not found.is_live:  # an upload may be under way, and may still fail
            raise access.missing(name)
        return gateway_pb2.GetAdapterResponse(record=found.record)

    async def ListAdapters(
        self, request: gateway_pb2.ListAdaptersRequest, context: Context
    ) -> gateway_pb2.ListAdaptersResponse:
        """One page of live versions."""
        return (await self._backends.adapters.ListStored(adapters_pb2.ListStoredRequest(query=request))).page

    async def GetHistory(
        self, request: gateway_pb2.GetHistoryRequest, context: Context
    ) -> gateway_pb2.GetHistoryResponse:
        """All versions of one name."""
        asked = adapters_pb2.GetStoredHistoryRequest(adapter=request.adapter)
        answer = await self._backends.adapters.GetStoredHistory(asked)
        return gateway_pb2.GetHistoryResponse(entries=answer.entries)

    async def DownloadAdapter(
        self, request: gateway_pb2.DownloadAdapterRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.DownloadAdapterResponse]:
        """Streams both files of one version."""
        asked = gateway_pb2.GetAdapterRequest(adapter=request.adapter, without_samples=True)
        ref = (await self.GetAdapter(asked, context)).record.adapter
        async with reading(self._backends.adapters.Fetch(adapters_pb2.FetchRequest(digest=ref.digest))) as parts:
            async for part in parts:
                if part.HasField("header"):
                    header = gateway_pb2.DownloadHeader(
                        adapter=ref, config_json=part.header.config_json, size=part.header.size
                    )
                    yield gateway_pb2.DownloadAdapterResponse(header=header)
                else:
                    yield gateway_pb2.DownloadAdapterResponse(data=part.data)

    async def RollbackAdapter(
        self, request: gateway_pb2.RollbackAdapterRequest, context: Context
    ) -> gateway_pb2.RollbackAdapterResponse:
        """Makes an older version the latest again."""
        name = access.named_to_change(request.adapter)
        record, is_created = await self._uploads.roll_back_to(name, _expected(request))
        return gateway_pb2.RollbackAdapterResponse(record=record, created=is_created)

    async def DeleteAdapter(
        self, request: gateway_pb2.DeleteAdapterRequest, context: Context
    ) -> gateway_pb2.DeleteAdapterResponse:
        """Removes versions; running requests finish."""
        name, expected = access.named_to_change(request.adapter), _expected(request)
        removed = await self._removals.delete(name, comment=request.comment, expected_version=expected)
        return gateway_pb2.DeleteAdapterResponse(removed=[ref_to_pb(ref) for ref in removed])

    async def RevokeAdapter(
        self, request: gateway_pb2.RevokeAdapterRequest, context: Context
    ) -> gateway_pb2.RevokeAdapterResponse:
        """Removes versions; running requests that use them are aborted."""
        name, expected = access.named_to_change(request.adapter), _expected(request)
        removed, aborted = await self._removals.revoke(name, comment=request.comment, expected_version=expected)
        return gateway_pb2.RevokeAdapterResponse(removed=[ref_to_pb(ref) for ref in removed], aborted=aborted)

    async def Reindex(
        self, request: gateway_pb2.ReindexRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.ReindexResponse]:
        """Rebuilds the index."""
        access.check_operator()
        async with aclosing(self._reindexing.run()) as steps:
            async for step in steps:
                yield step

    async def Describe(self, request: gateway_pb2.DescribeRequest, context: Context) -> gateway_pb2.DescribeResponse:
        """The served base model, limits and load."""
        answer = describe_to_pb(
            await self._statuses(),
            version=version("ramole"),
            base_model=self._base_id,
            composition=self._settings.composition,
        )
        if not access.may_operate():
            answer.ClearField("fullest_step")  # contents that other tenants use
        return answer

    async def _statuses(self) -> list[executor_pb2.GetStatusResponse]:
        executor, request = self._backends.executor, executor_pb2.GetStatusRequest()
        return await executor.everywhere(lambda channel: ExecutorStub(channel).GetStatus, request)


_Conditional = gateway_pb2.RollbackAdapterRequest | gateway_pb2.DeleteAdapterRequest | gateway_pb2.RevokeAdapterRequest


def _expected(request: _Conditional) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None
