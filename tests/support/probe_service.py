"""A service whose methods do what a test tells them, and a relay in front of it: two hops over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from ramole.core.call import Principal, current_call
from ramole.core.errors import RamoleError
from ramole.core.settings import ServerSettings
from ramole.transport.peers import Peers
from ramole.transport.picker import Picker, StaticPicker
from ramole.transport.server import GrpcServer
from ramole.transport.service import Service
from ramole.v1 import adapters_pb2, adapters_pb2_grpc
from ramole.v1.records_pb2 import AdapterRecord, FileChunk
from support.uploads import put_request

Context = grpc.aio.ServicerContext[Any, Any]


class ProbeService(adapters_pb2_grpc.AdaptersServicer, Service):
    """Three cardinalities of the Adapters service.

    Attributes:
        failure: raised by every method, if set.
        gate: methods wait for it.
        entered, closed: set when a call begins and when it has ended in whatever way.
        seen: request id and remaining seconds of each call.
        principals: who asked, of each call.
    """

    name = "adapters"
    full_name = "ramole.v1.Adapters"

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.start_failure: Exception | None = None
        self.sickness: Exception | None = None
        self.start_gate = asyncio.Event()
        self.start_gate.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.closed = asyncio.Event()
        self.has_seen_end_of_upload = False
        self.is_open = False
        self.num_messages = 3
        self.seen: list[tuple[str, float | None]] = []
        self.principals: list[Principal] = []

    def register(self, server: grpc.aio.Server) -> None:
        adapters_pb2_grpc.add_AdaptersServicer_to_server(self, server)

    async def start(self) -> None:
        await self.start_gate.wait()
        if self.start_failure is not None:
            raise self.start_failure
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    def check_health(self) -> None:
        if self.sickness is not None:
            raise self.sickness

    def routing_stats(self) -> dict[str, object]:
        return {"adapters": ["a"], "capacity": 40}

    async def GetStored(
        self, request: adapters_pb2.GetStoredRequest, context: Context
    ) -> adapters_pb2.GetStoredResponse:
        try:
            await self._begin()
            return adapters_pb2.GetStoredResponse(record=AdapterRecord(base_model=request.adapter))
        finally:
            self.closed.set()

    async def Fetch(
        self, request: adapters_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        try:
            for i in range(self.num_messages):
                if i == self.num_messages - 1:
                    await self._begin()
                yield adapters_pb2.FetchResponse(data=bytes([i]))
        finally:
            self.closed.set()

    async def Put(
        self, request_iterator: AsyncIterator[adapters_pb2.PutRequest], context: Context
    ) -> adapters_pb2.PutResponse:
        try:
            await self._begin()
            received = b"".join([request.upload.chunk.data async for request in request_iterator])
            self.has_seen_end_of_upload = True
            return adapters_pb2.PutResponse(record=AdapterRecord(base_model=received.decode()))
        finally:
            self.closed.set()

    async def _begin(self) -> None:
        call = current_call()
        self.seen.append((call.request_id, call.remaining_s()))
        self.principals.append(call.principal)
        self.entered.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class RelayService(ProbeService):
    """Passes every call on to another server, as the gateway does."""

    def __init__(self, peers: Peers, *, may_retry: bool = True) -> None:
        super().__init__()
        self._peers = peers
        self._may_retry = may_retry

    async def GetStored(
        self, request: adapters_pb2.GetStoredRequest, context: Context
    ) -> adapters_pb2.GetStoredResponse:
        stub = adapters_pb2_grpc.AdaptersStub
        return await self._peers.adapters.unary(lambda c: stub(c).GetStored, request, may_retry=self._may_retry)

    async def Fetch(
        self, request: adapters_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        async with aclosing(self._peers.adapters.stub.Fetch(request)) as answers:
            async for answer in answers:
                yield answer

    async def Put(
        self, request_iterator: AsyncIterator[adapters_pb2.PutRequest], context: Context
    ) -> adapters_pb2.PutResponse:
        return await self._peers.adapters.stub.Put(request_iterator)


def probe_server() -> GrpcServer:
    """For replicas, which import what makes their server."""
    return GrpcServer(ProbeService(), ServerSettings())


def peers_at(picker: Picker | str) -> Peers:
    """Peers whose every service is behind one picker or address."""
    one = StaticPicker(picker) if isinstance(picker, str) else picker
    return Peers(lambda _: one)


async def chunks(*parts: bytes) -> AsyncIterator[adapters_pb2.PutRequest]:
    """An upload of these bytes."""
    for part in parts:
        yield put_request(chunk=FileChunk(data=part))


async def call_unary(peers: Peers) -> object:
    return (await peers.adapters.stub.GetStored(adapters_pb2.GetStoredRequest(adapter="x"))).record.base_model


async def call_stream(peers: Peers) -> object:
    return b"".join([answer.data async for answer in peers.adapters.stub.Fetch(adapters_pb2.FetchRequest(digest="x"))])


async def call_upload(peers: Peers) -> object:
    return (await peers.adapters.stub.Put(chunks(b"a", b"b"))).record.base_model


CALLS = {"unary": (call_unary, "x"), "stream": (call_stream, b"\0\1\2"), "upload": (call_upload, "ab")}


def facts(error: RamoleError) -> tuple[object, ...]:
    """What must survive the wire."""
    return type(error), error.message, error.field, error.remedy
