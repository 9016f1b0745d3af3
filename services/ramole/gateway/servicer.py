"""The public service on the wire: validates, converts, delegates to the flows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from importlib.metadata import version
from typing import Any, ClassVar

import grpc

from ramole.core import access
from ramole.core.bounds import COUNTS, check_count
from ramole.core.call import current_call
from ramole.core.errors import InvalidInput, RamoleError, Unavailable, WrongState
from ramole.core.settings import Settings
from ramole.gateway.answers import AnswerFlow
from ramole.gateway.backends import Backends
from ramole.gateway.codec import describe_to_pb, order_from_pb, routing_to_pb, services_to_pb, whole_to_pb
from ramole.gateway.finisher import Finisher
from ramole.gateway.http.app import make_app
from ramole.gateway.http.connection import ConnectionLimits
from ramole.gateway.http.edge import Edge
from ramole.gateway.http.management import ManagementRoutes
from ramole.gateway.http.models import Models
from ramole.gateway.http.openai import OpenAi
from ramole.gateway.http.server import HttpServer
from ramole.gateway.http.vllm import VllmRoutes
from ramole.gateway.identity import keys_path
from ramole.gateway.keys import KeyFile
from ramole.gateway.management import Management
from ramole.gateway.metrics import GatewayMetrics, UpkeepMetrics
from ramole.gateway.pool import Pool, SeenNames
from ramole.gateway.readiness import Readiness
from ramole.gateway.removals import Removals
from ramole.gateway.routing import AdapterChooser
from ramole.gateway.tenant_limits import TenantLimits
from ramole.gateway.together import each_alone
from ramole.gateway.upkeep import Upkeep, until_available
from ramole.gateway.uploads import Uploads
from ramole.gateway.values import Routing
from ramole.observability.export import Exposition
from ramole.observability.specs import TenantNames
from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import Kind
from ramole.transport.failures import failure_to_pb
from ramole.transport.peers import Peers
from ramole.transport.service import Service
from ramole.transport.tls import ServerTls
from ramole.v1 import common_pb2, executor_pb2, gateway_pb2, gateway_pb2_grpc
from ramole.v1.executor_pb2_grpc import ExecutorStub

# How long a description waits for the index, and for the health of services.
_INDEX_S = 0.5

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
        self._all_settings = settings
        self._base_id = settings.base_id or settings.base_model
        self._backends = Backends(peers, base_id=self._base_id)
        self._chooser = AdapterChooser(self._backends, base_id=self._base_id, timeout_s=settings.retrieval.timeout_s)
        limits = TenantLimits(self._settings.limits, self._settings.tenant_limits)
        self._names = SeenNames()
        metrics = GatewayMetrics(self.registry, TenantNames.of(settings), self._names)
        self._backends.executor.report_picks(metrics.picked)
        self._answers = AnswerFlow(self._backends, self._chooser, limits, metrics)
        self._readiness = Readiness(peers)
        self._finisher = Finisher()
        self._upkeep = Upkeep(self._backends, patience_s=self._settings.index_patience_s)
        UpkeepMetrics(self.registry, self._upkeep)
        uploads = Uploads(self._backends, self._finisher, self._upkeep)
        removals = Removals(self._backends, uploads, self._finisher, self._upkeep)
        self._management = Management(self._backends, self._chooser, uploads, removals, self._settings, metrics)
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
        exposition = Exposition()
        exposition.add(self.name, self.registry)

        async def check_ready() -> None:
            bracket.check_open()
            await self.check_ready()

        app = make_app(
            Edge(bracket, max_body_bytes=options.max_body_bytes, idle_s=self._settings.server.idle_s),
            OpenAi(self._answers, self._settings, self._base_id),
            Models(self._backends, self._base_id),
            ManagementRoutes(self._management, self._describe, exposition, max_header_bytes=options.max_body_bytes),
            VllmRoutes(self._management),
            check_ready=check_ready,
            tell_pool=Pool(self._statuses, self._names).text if options.pool_metrics else None,
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

    def begin_drain(self) -> None:
        """HTTP connections are not kept any more."""
        if self._http is not None:
            self._http.begin_drain()

    async def drain(self, grace_s: float) -> None:
        """Ends HTTP."""
        if self._http is not None:
            await self._http.stop(grace_s)

    async def close(self) -> None:
        """Lets uploads and removals that have begun run to their end."""
        await self._readiness.close()
        await self._finisher.close()
        await self._upkeep.close()

    async def check_ready(self) -> None:
        """Raises Unavailable, which names what is missing, while this gateway is well and a prompt finds no answer."""
        await self._readiness.check()

    async def Generate(
        self, request: gateway_pb2.GenerateRequest, context: Context
    ) -> AsyncGenerator[gateway_pb2.GenerateResponse]:
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

    async def Complete(self, request: gateway_pb2.CompleteRequest, context: Context) -> gateway_pb2.CompleteResponse:
        """One answer in one piece."""
        async with aclosing(self.Generate(request.request, context)) as events:
            return whole_to_pb([event async for event in events])

    async def GenerateBatch(
        self, request: gateway_pb2.GenerateBatchRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.GenerateBatchResponse]:
        """Streams several answers, which run together; what fails, fails alone."""
        check_count("requests", len(request.requests))
        if not request.requests:
            raise InvalidInput("no requests", field="requests", remedy=f"give 1 to {COUNTS['requests'].high}")
        async with aclosing(each_alone([self.Generate(each, context) for each in request.requests])) as events:
            async for index, event in events:
                if isinstance(event, RamoleError):
                    yield gateway_pb2.GenerateBatchResponse(index=index, failure=failure_to_pb(event))
                elif event.HasField("routing"):
                    yield gateway_pb2.GenerateBatchResponse(index=index, routing=event.routing)
                elif event.HasField("chunk"):
                    yield gateway_pb2.GenerateBatchResponse(index=index, chunk=event.chunk)
                else:
                    yield gateway_pb2.GenerateBatchResponse(index=index, usage=event.usage)

    async def Route(self, request: gateway_pb2.RouteRequest, context: Context) -> gateway_pb2.RouteResponse:
        """What Generate would use."""
        return await self._management.route(request)

    async def UploadAdapter(
        self, request_iterator: AsyncIterator[gateway_pb2.UploadAdapterRequest], context: Context
    ) -> gateway_pb2.UploadAdapterResponse:
        """Uploads one adapter."""
        return await self._management.upload(request_iterator)

    async def GetAdapter(
        self, request: gateway_pb2.GetAdapterRequest, context: Context
    ) -> gateway_pb2.GetAdapterResponse:
        """One version."""
        return await self._management.get(request)

    async def ListAdapters(
        self, request: gateway_pb2.ListAdaptersRequest, context: Context
    ) -> gateway_pb2.ListAdaptersResponse:
        """One page of live versions."""
        return await self._management.list(request)

    async def GetHistory(
        self, request: gateway_pb2.GetHistoryRequest, context: Context
    ) -> gateway_pb2.GetHistoryResponse:
        """All versions of one name."""
        return await self._management.history(request)

    async def DownloadAdapter(
        self, request: gateway_pb2.DownloadAdapterRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.DownloadAdapterResponse]:
        """Streams both files of one version."""
        async with aclosing(self._management.download(request)) as parts:
            async for part in parts:
                yield part

    async def RollbackAdapter(
        self, request: gateway_pb2.RollbackAdapterRequest, context: Context
    ) -> gateway_pb2.RollbackAdapterResponse:
        """Makes an older version the latest again."""
        return await self._management.roll_back(request)

    async def DeleteAdapter(
        self, request: gateway_pb2.DeleteAdapterRequest, context: Context
    ) -> gateway_pb2.DeleteAdapterResponse:
        """Removes versions; running requests finish."""
        return await self._management.delete(request)

    async def RevokeAdapter(
        self, request: gateway_pb2.RevokeAdapterRequest, context: Context
    ) -> gateway_pb2.RevokeAdapterResponse:
        """Removes versions; running requests that use them are aborted."""
        return await self._management.revoke(request)

    async def Reindex(
        self, request: gateway_pb2.ReindexRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.ReindexResponse]:
        """Rebuilds the index."""
        async with aclosing(self._management.reindex()) as steps:
            async for step in steps:
                yield step

    async def Describe(self, request: gateway_pb2.DescribeRequest, context: Context) -> gateway_pb2.DescribeResponse:
        """The served base model, limits and load."""
        return await self._describe()

    async def _describe(self) -> gateway_pb2.DescribeResponse:
        statuses, encoder_id = await asyncio.gather(self._present_statuses(), self._encoder_id())
        answer = describe_to_pb(
            statuses,
            version=version("ramole"),
            base_model=self._base_id,
            settings=self._all_settings,
            encoder_id=encoder_id,
            caller=current_call().principal,
        )
        if access.may_operate():
            answer.services.extend(services_to_pb(await self._backends.health(timeout_s=_INDEX_S)))
        else:
            answer.ClearField("fullest_step")  # contents that other tenants use, and how much they do
            answer.ClearField("ended")
            answer.ClearField("tokens_out")
            answer.ClearField("tiers")
        return answer

    async def _encoder_id(self) -> str:
        """Of the live generation; '' when there is none, or the index does not say at once."""
        try:
            async with asyncio.timeout(_INDEX_S):
                return next((each.encoder_id for each in await self._backends.generations()), "")
        except (TimeoutError, RamoleError):
            return ""

    async def _present_statuses(self) -> list[executor_pb2.GetStatusResponse]:
        """None while no executor answers: who looks at a system wants to see what is wrong with it."""
        try:
            return await self._statuses()
        except Unavailable:
            return []

    async def _statuses(self) -> list[executor_pb2.GetStatusResponse]:
        executor, request = self._backends.executor, executor_pb2.GetStatusRequest()
        name = "/ramole.v1.Executor/GetStatus"
        return await executor.whoever_answers(lambda channel: ExecutorStub(channel).GetStatus, request, name=name)
