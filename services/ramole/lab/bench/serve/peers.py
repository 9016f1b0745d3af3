"""Bare servers that send what ramole's null engine sends, prepared beforehand: the most their libraries can do; and a
collector of spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from ramole.gateway.http.answers import DONE, CompletionWriter, GrowingChoice, event
from ramole.gateway.http.connection import ConnectionLimits
from ramole.gateway.http.server import HttpServer
from ramole.v1 import common_pb2, gateway_pb2

_CHUNK = common_pb2.TokenChunk(text="one ", token_ids=[17])


class GrpcPeer:
    """A grpc.aio server without interceptors. `http_address` is empty."""

    http_address = ""

    def __init__(self) -> None:
        self._server = grpc.aio.server()
        generate = grpc.unary_stream_rpc_method_handler(
            _generate, gateway_pb2.GenerateRequest.FromString, gateway_pb2.GenerateResponse.SerializeToString
        )
        service = grpc.method_handlers_generic_handler("ramole.v1.Gateway", {"Generate": generate})
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self) -> None:
        """Breaks off what runs."""
        await self._server.stop(None)


async def _generate(
    request: gateway_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> AsyncIterator[gateway_pb2.GenerateResponse]:
    for _ in range(request.sampling.max_tokens):
        yield gateway_pb2.GenerateResponse(chunk=_CHUNK)


class CollectorPeer:
    """Takes spans and looks at none. `http_address` is empty."""

    http_address = ""

    def __init__(self) -> None:
        self._server = grpc.aio.server()
        export: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(cast(Any, _export))
        service = grpc.method_handlers_generic_handler(
            "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": export}
        )
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self) -> None:
        """Breaks off what runs."""
        await self._server.stop(None)


async def _export(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return b""


_LIMITS = ConnectionLimits(max_connections=1024, max_head_bytes=2**16, max_headers=100, idle_s=30.0)


class FastApiPeer:
    """A FastAPI application below uvicorn. `address` is empty."""

    address = ""

    def __init__(self) -> None:
        app = FastAPI()
        app.post("/v1/completions")(_complete)
        self._server = HttpServer(app, "127.0.0.1", 0, _LIMITS)

    @property
    def http_address(self) -> str:
        """Where it serves."""
        return self._server.address

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self) -> None:
        """Breaks off what runs."""
        await self._server.stop(0)


async def _complete(request: Request) -> StreamingResponse:
    body = await request.json()
    writer = CompletionWriter("peer", 0, body["model"])
    piece = GrowingChoice(0)
    piece.push(_CHUNK)

    async def events() -> AsyncIterator[bytes]:
        for _ in range(body["max_tokens"]):
            yield event(writer.piece(0, piece))
            await asyncio.sleep(0)
        yield DONE

    return StreamingResponse(events(), media_type="text/event-stream")
