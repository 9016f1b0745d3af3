"""Clients that send anything to a public port, and what must not come of it: no crash, no hang, no error of ours."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import grpc
from httpx import AsyncClient

from fuzz.odd_inputs import mutated, odd_body, odd_headers, odd_message, odd_path
from ramole.gateway.servicer import GatewayService
from ramole.v1 import gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayServicer
from support.front_door import Wire

PATIENCE_S = 60.0

METHODS = [
    method
    for method in gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].methods
    if getattr(GatewayService, method.name) is not getattr(GatewayServicer, method.name)
]
NOT_OURS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}


class Door(Protocol):
    """Where both ports are, on loopback."""

    @property
    def grpc_address(self) -> str: ...

    @property
    def http_port(self) -> int: ...


class Seen:
    """What has come of all inputs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.counts.total()


async def fuzz_http(door: Door, r: random.Random, seen: Seen, is_done: Callable[[], bool], key: str = "") -> None:
    """One client over connections that it keeps while the server does; `key`: of its tenant."""
    async with AsyncClient(base_url=f"http://127.0.0.1:{door.http_port}") as http:
        page = (await http.get("/openapi.json")).json()
    schemas = page.get("components", {}).get("schemas", {})
    routes = [
        (method.upper(), path, its)
        for path, methods in page["paths"].items()
        for method, its in methods.items()
        if method.upper() in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ]
    assert len(routes) > 5
    wire: Wire | None = None
    while not is_done():
        wire = wire or await Wire.to(door.http_port)
        request, may_break = _request(r, routes, schemas, key)
        wire.send(request)
        if may_break:
            with suppress(OSError):
                wire.writer.write_eof()
        status, told, is_open = await _answer(wire, request)
        seen.counts[f"HTTP {status or 'closed'}"] += 1
        if status is not None:
            _check(status, told, request)
        else:
            assert may_break, f"no answer to {request[:2000]!r}"
        if may_break or not is_open:
            await wire.close()
            wire = None
    if wire is not None:
        await wire.close()


def _request(r: random.Random, routes: Any, schemas: Any, key: str) -> tuple[bytes, bool]:
    """A request, and whether its frame may be broken, so that the connection may end without an answer."""
    if r.random() < 0.02:
        return r.randbytes(r.choice([1, 20, 400])), True
    method, path, its = r.choice(routes)
    if r.random() < 0.02:
        method = r.choice(["GET", "POST", "DELETE", "OPTIONS", "TRACE", "HEAD", "BREW"])
    target = odd_path(r, path)
    kind, body = "application/json", b""
    content = its.get("requestBody", {}).get("content", {})
    if content:
        kind = r.choice(list(content))
        kind, body = odd_body(r, kind, content[kind].get("schema", {}), schemas)
    odd = odd_headers(r)
    own = [f"authorization: Bearer {key}".encode()] if key else []
    lines = [f"{method} {target} HTTP/1.1".encode(), b"host: x", *own, *odd, b"content-type: " + kind.encode()]
    if r.random() < 0.1:
        size = r.choice([1, 7, 100])
        chunks = [body[i : i + size] for i in range(0, len(body), size)] if len(body) < 5000 else [body]
        data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n\r\n"
        lines.append(b"transfer-encoding: chunked")
    else:
        data = body
        lines.append(b"content-length: %d" % len(body))
    raw = b"\r\n".join([*lines, b"", b""]) + data
    if r.random() < 0.03:
        return mutated(r, raw), True
    return raw, bool(odd) or method in {"HEAD", "BREW"}


async def _answer(wire: Wire, request: bytes) -> tuple[int | None, bytes, bool]:
    """Status, body, and whether the connection goes on; None = it was closed."""
    reader = wire.reader
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(b" ", 2)[1])
                if status != 100:
                    break
            lines = head.lower()
            if request.startswith(b"HEAD"):
                return status, b"{}", False
            if b"transfer-encoding: chunked" in lines:
                body = b""
                while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    body += await reader.readexactly(size)
                    await reader.readexactly(2)
                await reader.readexactly(2)
            else:
                length = lines.partition(b"content-length: ")[2].split(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
            return status, body, b"connection: close" not in lines
    except (asyncio.IncompleteReadError, ConnectionError):
        return None, b"", False
    except TimeoutError:
        raise AssertionError(f"it hangs on {request[:2000]!r}") from None


def _check(status: int, told: bytes, request: bytes) -> None:
    assert status < 500 or status in (503, 504), f"{status} {told!r} of {request[:2000]!r}"
    if status < 400 or request.startswith(b"HEAD"):
        return
    error = json.loads(told)["error"]
    assert error["message"], request
    assert error["type"] in ("invalid_request_error", "not_found_error", "permission_error", "authentication_error",
                             "rate_limit_error", "server_error"), error  # fmt: skip


async def fuzz_grpc(door: Door, r: random.Random, seen: Seen, is_done: Callable[[], bool], key: str = "") -> None:
    """One client that calls everything; `key`: of its tenant."""
    metadata = [("authorization", f"Bearer {key}")] if key else []
    async with grpc.aio.insecure_channel(door.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        while not is_done():
            method = r.choice(METHODS)
            sides = ("unary", "stream")[method.client_streaming], ("unary", "stream")[method.server_streaming]
            call = getattr(channel, "_".join(sides))(f"/ramole.v1.Gateway/{method.name}")
            count = r.randint(0, 3) if method.client_streaming else 1
            parts = [odd_message(r, method.input_type) for _ in range(count)]
            rpc = call(iter(parts) if method.client_streaming else parts[0], timeout=PATIENCE_S, metadata=metadata)
            try:
                if method.server_streaming:
                    left = r.randint(1, 40)
                    async for _ in rpc:
                        left -= 1
                        if not left:
                            rpc.cancel()
                else:
                    await rpc
            except (grpc.aio.AioRpcError, asyncio.CancelledError):
                task = asyncio.current_task()
                assert task is not None
                if task.cancelling():
                    raise
            code = (await rpc.code()).name
            seen.counts[f"gRPC {code}"] += 1
            assert code not in NOT_OURS, f"{code} {await rpc.details()} of {method.name} {parts!r}"
            assert code != "DEADLINE_EXCEEDED", f"it hangs on {method.name} {parts!r}"
