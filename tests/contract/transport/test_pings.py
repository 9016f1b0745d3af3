"""Pings tell whether a peer lives. A client may ping as often as libraries let it, but must do something else as well.

Spoken frame by frame, as no gRPC library pings that often.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import Any

import grpc
import pytest

from ramole.transport.channels import Channels
from support.probe_service import CALLS, ProbeService

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", 0) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    head = await reader.readexactly(9)
    return head[3], head[4], await reader.readexactly(int.from_bytes(head[:3], "big"))


async def test_a_client_that_pings_without_pause_and_without_calls_keeps_its_connection(net: Any) -> None:
    server = await net.serve(ProbeService())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(PREFACE + frame(SETTINGS))
        answered = []
        for i in range(50):
            writer.write(frame(PING, i.to_bytes(8, "big")))
            async with asyncio.timeout(10):
                while len(answered) <= i:
                    kind, flags, payload = await read_frame(reader)
                    assert kind != GOAWAY, payload
                    if kind == SETTINGS and not flags & ACK:
                        writer.write(frame(SETTINGS, flags=ACK))
                    if kind == PING and flags & ACK:
                        answered.append(int.from_bytes(payload, "big"))
        assert answered == list(range(50))
    finally:
        writer.close()
        await writer.wait_closed()
    assert await CALLS["unary"][0](net.peers(server.address)) == "x"


async def test_a_flood_of_pings_ends_its_connection_and_no_other(net: Any) -> None:
    server = await net.serve(ProbeService())
    peers = net.peers(server.address)
    assert await CALLS["unary"][0](peers) == "x"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(PREFACE + frame(SETTINGS) + b"".join(frame(PING, i.to_bytes(8, "big")) for i in range(1000)))
    farewell = b""
    async with asyncio.timeout(10):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, _, payload = await read_frame(reader)
                farewell = payload if kind == GOAWAY else farewell
    assert b"too_many_pings" in farewell
    writer.close()
    assert await CALLS["unary"][0](peers) == "x"


async def test_a_peer_that_stands_still_is_given_up_before_the_deadline() -> None:
    """The kernel takes what is sent to a stopped process, so only a ping that nobody answers tells."""
    closing = asyncio.Event()

    async def stand_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS))
        await closing.wait()
        writer.close()

    channels = Channels()
    async with await asyncio.start_server(stand_still, "127.0.0.1", 0) as server:
        channel = channels.get(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/any/Call")(b"", timeout=60)
        closing.set()
        await channels.close()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
