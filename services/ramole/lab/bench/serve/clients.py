"""Clients that cost little themselves: they count what comes and look into it afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc

from ramole.core.errors import Internal
from ramole.v1 import gateway_pb2

GENERATE = "/ramole.v1.Gateway/Generate"

_END = b"0\r\n\r\n"
"""Of a chunked answer."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What several streams brought together.

    Attributes:
        seconds: from the first request to the last answer's end.
        num_messages: pieces that carried text.
    """

    seconds: float
    num_tokens: int
    num_messages: int


async def stream_grpc(address: str, request: gateway_pb2.GenerateRequest, count: int) -> Streamed:
    """`count` equal requests at once on one connection that stands already."""
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        generate: grpc.aio.UnaryStreamMultiCallable[gateway_pb2.GenerateRequest, bytes] = channel.unary_stream(
            GENERATE, request_serializer=gateway_pb2.GenerateRequest.SerializeToString
        )

        async def one() -> list[bytes]:
            return [message async for message in generate(request)]

        start_s = time.perf_counter()
        answers = await asyncio.gather(*(one() for _ in range(count)))
        seconds = time.perf_counter() - start_s
    chunks = [
        message.chunk
        for answer in answers
        for message in map(gateway_pb2.GenerateResponse.FromString, answer)
        if message.HasField("chunk")
    ]
    return Streamed(seconds, sum(len(chunk.token_ids) for chunk in chunks), len(chunks))


async def stream_http(address: str, body: bytes, count: int, new_tokens: int) -> Streamed:
    """The same over HTTP, each on a connection of its own. Raises Internal for an answer that is none."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(_Collector, host, int(port)) for _ in range(count)]
    start_s = time.perf_counter()
    for transport, _ in pairs:
        transport.write(post("/v1/completions", host, body))
    answers = await asyncio.gather(*(collector.done for _, collector in pairs))
    seconds = time.perf_counter() - start_s
    num_messages = sum(answer.count(b'"text":"') - answer.count(b'"text":""') for answer in answers)
    if any(not answer.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in answer for answer in answers):
        raise Internal(f"an HTTP answer broke off: {answers[0][-300:]!r}")
    return Streamed(seconds, count * new_tokens, num_messages)


class _Collector(asyncio.Protocol):
    """Reads one chunked answer to its end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._tail = b""
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(b"".join(self._parts))
        if self._transport is not None:
            self._transport.close()


def post(path: str, host: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{key}: {value}" for key, value in headers), "", ""]).encode() + body


def completion_body(model: str, prompt: str, new_tokens: int) -> bytes:
    """Of a streamed completion."""
    return json.dumps({"model": model, "prompt": prompt, "max_tokens": new_tokens, "stream": True}).encode()


async def exchange_http(
    address: str, body: bytes, headers: Sequence[tuple[str, str]], count: int
) -> AsyncIterator[tuple[float, bytes]]:
    """One completion after the other on one connection: seconds and answer of each, none of them streamed."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for _ in range(count):
            start_s = time.perf_counter()
            writer.write(post("/v1/completions", host, body, headers))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            answer = head + await reader.readexactly(int(length.partition(b":")[2]))
            yield time.perf_counter() - start_s, answer
    finally:
        writer.close()
        await writer.wait_closed()
