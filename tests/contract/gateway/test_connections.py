"""Clients that send or read too much, too slowly or not at all: each costs little, ends soon, and harms nobody."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from ramole.core.errors import LimitExceeded, RamoleError
from ramole.core.settings import TlsSettings
from ramole.v1 import gateway_pb2, gateway_pb2_grpc
from support.certificates import Authority
from support.front_door import FrontDoor, Wire, front_door, post
from support.gateway_world import BASE

IDLE_S = 0.5
PATH = "/v1/completions"
BODY = {"model": BASE, "prompt": "a b c"}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture
async def door() -> AsyncIterator[FrontDoor]:
    async with front_door(
        server={"idle_s": IDLE_S}, http={"max_head_bytes": 4096, "max_headers": 30, "max_body_bytes": 2**20}
    ) as door:
        yield door


async def check_well(door: FrontDoor) -> None:
    """Somebody else is served as ever, on both ports."""
    async with door.http() as http:
        assert (await http.post(PATH, json=BODY)).json()["choices"][0]["text"] == "abc"
    assert (await door.client.complete("a b c")).text == "abc"


TOO_MUCH = {
    "one long header": HEAD + b"x: " + b"y" * 9000 + b"\r\n\r\n",
    "a header without an end": HEAD + b"x: " + b"y" * 600_000,
    "a name without an end": HEAD + b"y" * 600_000,
    "headers without an end": HEAD + b"x: y\r\n" * 100_000,
    "a long path": b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\n\r\n",
    "a path without an end": b"GET /" + b"y" * 600_000,
    "many headers": HEAD + b"".join(b"h%d: v\r\n" % i for i in range(40)) + b"\r\n",
    "trailers without an end": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"x: y\r\n" * 100_000,
    "a chunk's extension without an end": HEAD + b"transfer-encoding: chunked\r\n\r\n1;" + b"y" * 600_000,
}


@pytest.mark.parametrize("sent", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_heads_have_an_end(door: FrontDoor, sent: bytes) -> None:
    wire = await Wire.to(door.http_port)
    wire.send(sent)
    told = await wire.rest()  # a client that goes on sending may lose what it was told
    if told:
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.split()[1] in (b"431", b"400"), head
        assert json.loads(body)["error"]["param"] in ("headers", "body")
    await wire.close()
    await check_well(door)


@pytest.mark.parametrize(("name", "status"), [("many headers", 431), ("one long header", 431), ("a long path", 431)])
async def test_who_sends_too_long_a_head_hears_it(door: FrontDoor, name: str, status: int) -> None:
    wire = await Wire.to(door.http_port)
    wire.send(TOO_MUCH[name])
    told, headers, body = await wire.answer()
    assert (told, headers["connection"]) == (status, "close")
    assert json.loads(body)["error"]["param"] == "headers"
    assert await wire.rest() == b""


def dripping(text: bytes) -> Callable[[Wire], Any]:
    async def drip(wire: Wire) -> None:
        with suppress(ConnectionError):
            for i in range(10_000):
                wire.send(text[i % len(text) : i % len(text) + 1])
                await wire.writer.drain()
                await asyncio.sleep(IDLE_S / 10)

    return drip


async def silent(wire: Wire) -> None:
    await asyncio.sleep(3600)


SLOW: dict[str, tuple[bytes, Callable[[Wire], Any], int | None]] = {
    "says nothing": (b"", silent, None),
    "sends empty lines": (b"", dripping(b"\r\n"), None),
    "drips a head": (b"POST /v1/completions HTTP/1.1\r\n", dripping(b"x: y\r\n"), 408),
    "stops in a head": (b"POST /v1/comp", silent, 408),
    "stops before the body": (HEAD + b"content-length: 10\r\n\r\n", silent, 408),
    "stops in the body": (HEAD + b"content-length: 10\r\n\r\n{", silent, 408),
    "stops in a chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{", silent, 408),
    "drips a body nobody reads": (b"GET /health HTTP/1.1\r\ncontent-length: 9999\r\n\r\n", dripping(b"x"), 200),
    "is late with the next request": (b"GET /health HTTP/1.1\r\n\r\n", dripping(b"\r\n"), 200),
}


@pytest.mark.parametrize(("begin", "go_on", "status"), SLOW.values(), ids=SLOW)
async def test_who_is_slow_is_let_go(
    door: FrontDoor, begin: bytes, go_on: Callable[[Wire], Any], status: int | None
) -> None:
    wire = await Wire.to(door.http_port)
    wire.send(begin)
    dripping = asyncio.create_task(go_on(wire))
    told = await wire.rest()
    dripping.cancel()
    assert (told.split() or [b"", None])[1] == (None if status is None else str(status).encode())
    if status == 408:
        assert b"x-should-retry: false" in told
    await check_well(door)


async def test_a_deadline_ends_a_dripped_body(door: FrontDoor) -> None:
    """Each byte comes in time, the whole never does."""
    wire = await Wire.to(door.http_port)
    wire.send(HEAD + b"content-length: 9999\r\nx-request-timeout: 1\r\n\r\n")
    drip = asyncio.create_task(dripping(b" ")(wire))
    assert (await wire.rest()).split()[1] in (b"504", b"408")
    drip.cancel()


# The client lives in this process, whose memory is measured: it must not widen its own window.
SMALL_WINDOW = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]


async def over_http(door: FrontDoor) -> Wire:
    wire = await Wire.to(door.http_port, receives=2**14)
    wire.send(post(PATH, BODY | {"stream": True}))
    return wire


@pytest.mark.parametrize("port", ["http", "grpc"])
async def test_readers_that_do_not_read_cost_little_and_leave_the_batch(door: FrontDoor, port: str) -> None:
    num, piece = 30, "y" * 16_000
    door.executor.endless = piece
    process = psutil.Process()
    before = process.memory_info().rss
    wires, channels, calls = [], [], []
    for _ in range(num):
        if port == "http":
            wires.append(await over_http(door))
        else:
            channel = grpc.aio.insecure_channel(door.grpc_address, options=SMALL_WINDOW)
            stub: Any = gateway_pb2_grpc.GatewayStub(channel)
            calls.append(stub.Generate(gateway_pb2.GenerateRequest(prompt="a", adapters=[{"adapter": "one"}])))
            channels.append(channel)
    peak = before
    async with asyncio.timeout(60):
        while len(door.executor.requests) < num or door.executor.num_running:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)
    assert peak - before < num * 8 * 2**20, "no more than what lies between two buffers"
    door.executor.endless = ""
    for wire in wires:
        await wire.close()
    for call in calls:
        call.cancel()
    for channel in channels:
        await channel.close()
    await check_well(door)


@pytest.mark.parametrize("port", ["http", "grpc"])
async def test_a_download_that_nobody_reads_gives_its_place_back(door: FrontDoor, port: str) -> None:
    door.adapters.weights = [bytes(2**20)] * 64
    if port == "http":
        wire = await Wire.to(door.http_port, receives=2**14)
        wire.send(b"GET /v1/adapters/default/one/weights HTTP/1.1\r\nhost: x\r\n\r\n")
    else:
        channel = grpc.aio.insecure_channel(door.grpc_address, options=SMALL_WINDOW)
        stub: Any = gateway_pb2_grpc.GatewayStub(channel)
        call = stub.DownloadAdapter(gateway_pb2.DownloadAdapterRequest(adapter="one"))
    async with asyncio.timeout(30):
        await door.adapters.until("Fetch")
        while door.adapters.num_fetching:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.02)
    async with door.http() as http:
        metrics = (await http.get("/metrics")).text.splitlines()
    calls = [line for line in metrics if line.startswith("ramole_requests_total")]
    ended = [line for line in calls if 'code="DEADLINE_EXCEEDED"' in line]
    assert [line.split()[-1] for line in ended] == ["1.0"]
    if port == "http":
        assert 'method="GET /v1/adapters/{tenant}/{name}/weights"' in ended[0]
        assert len(await wire.rest()) < 64 * 2**20, "it hears by the missing bytes that something is missing"
        await wire.close()
    else:
        call.cancel()
        await channel.close()
    await check_well(door)


@pytest.mark.parametrize("port", ["http", "grpc"])
async def test_connections_are_counted(port: str) -> None:
    async with front_door(server={"max_connections": 5}, http={"max_connections": 5}) as door:
        wires = []
        for _ in range(4):
            wires.append(await Wire.to(door.http_port if port == "http" else int(door.grpc_address.split(":")[1])))
        if port == "http":
            async with door.http() as http:
                assert (await http.get("/health")).status_code == 200
                refused = await Wire.to(door.http_port)
                status, headers, _ = await refused.answer()
                assert (status, headers["retry-after"]) == (429, "1")
                assert await refused.rest() == b""
        else:
            assert (await door.client.complete("a b")).text == "ab"
            for _ in range(3):
                late = await Wire.to(int(door.grpc_address.split(":")[1]))
                assert await late.rest() == b""
        for wire in wires:
            await wire.close()
        async with asyncio.timeout(20):  # there is room again
            while True:
                try:
                    await check_well(door)
                    break
                except (RamoleError, OSError, KeyError, ValueError):
                    await asyncio.sleep(0.05)


async def test_metadata_has_an_end(door: FrontDoor) -> None:
    async with grpc.aio.insecure_channel(door.grpc_address) as channel:
        stub: Any = gateway_pb2_grpc.GatewayStub(channel)
        for metadata in ((("x", "y" * 100_000),), tuple((f"h{i}", "v" * 100) for i in range(1000))):
            call = stub.Describe(gateway_pb2.DescribeRequest(), metadata=metadata, timeout=30)
            assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await check_well(door)


async def test_what_is_too_large_is_refused_while_it_comes(door: FrontDoor) -> None:
    """Without a length, so that nothing tells beforehand; and the client hears why."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 4096

    async with door.http() as http:
        answer = await http.post(PATH, content=body())
        assert answer.status_code == 413
        assert answer.json()["error"]["param"] == "body"
    with pytest.raises(LimitExceeded) as refused:
        await door.client.complete("x " * 3 * 2**20)
    assert refused.value.message
    await check_well(door)


async def test_requests_that_come_together_are_answered_in_order(door: FrontDoor) -> None:
    wire = await Wire.to(door.http_port)
    texts = ["a", "b c", "d"]
    wire.send(b"".join(post(PATH, BODY | {"prompt": text}) for text in texts))
    for text in texts:
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["choices"][0]["text"]) == (200, text.replace(" ", ""))
    wire.send(b"".join(post(PATH, BODY) for _ in range(200)))  # more than may wait: cut off, not collected
    await wire.rest()
    await wire.close()
    await check_well(door)


async def test_an_offer_of_another_protocol_is_passed_over(door: FrontDoor) -> None:
    for offer in ("h2c", "websocket"):
        wire = await Wire.to(door.http_port)
        asked = post(PATH, BODY, connection="Upgrade, HTTP2-Settings", upgrade=offer, http2_settings="AAEAAEAA")
        for parts in ([asked], [asked[:-5], asked[-5:]], [bytes([byte]) for byte in asked]):
            for part in parts:
                wire.send(part)
                await wire.writer.drain()
            status, _, body = await wire.answer()
            assert (status, json.loads(body)["choices"][0]["text"]) == (200, "abc")
        await wire.close()
    wire = await Wire.to(door.http_port)
    wire.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await wire.answer())[0] == 400


def content(path: str) -> bytes:
    return Path(path).read_bytes()


async def test_both_ports_name_the_holder_of_a_certificate(tmp_path: Path) -> None:
    ours = Authority()
    cert, key, ca = map(str, ours.write(tmp_path, "ramole"))
    mine = tmp_path / "mine"
    mine.mkdir()
    my_cert, my_key, _ = map(str, ours.write(mine, "alice"))
    tls = TlsSettings(cert_file=cert, key_file=key, client_ca_file=ca)
    async with front_door(tls=tls) as door:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(my_cert, my_key)
        async with door.http(base_url=f"https://{door.http_address}", verify=context) as http:
            assert (await http.get("/v1/models/one")).status_code == 200
        over_http = door.adapters.callers.popitem()[1]
        credentials = grpc.ssl_channel_credentials(ours.pem, *map(content, (my_key, my_cert)))
        async with grpc.aio.secure_channel(door.grpc_address, credentials) as channel:
            stub: Any = gateway_pb2_grpc.GatewayStub(channel)
            await stub.GetAdapter(gateway_pb2.GetAdapterRequest(adapter="one"))
        over_grpc = door.adapters.callers.popitem()[1]
    assert over_http == over_grpc
    assert over_http.name == "127.0.0.1,alice,localhost"
