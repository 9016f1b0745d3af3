"""Each row of the table of errors happens, with its code, its status and a remedy, on both ports of a real gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from ramole.core import errors
from ramole.core.settings import TenantLimitSettings
from ramole.gateway.keys import KeyFile, Role
from ramole.transport.errors import CODES, code_of, from_rpc_error
from ramole.v1 import gateway_pb2, gateway_pb2_grpc
from statuses import ROWS, Row, statuses_page
from support.front_door import FrontDoor, Wire, front_door

PATH = "/v1/completions"
ASKED = {"model": "one", "prompt": "a b c"}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"

Told = tuple[int | str, str]
"""Status and remedy, or whatever else says what to do."""


class Asker:
    """Asks one port, with the key of a user of tenant a."""

    def __init__(self, door: FrontDoor, key: str, *, is_http: bool) -> None:
        self.door = door
        self.key = key
        self.is_http = is_http

    async def generate(self, *, key: str | None = None, timeout_s: float = 20.0, **change: Any) -> Told:
        """One prompt, on the named adapter, of the tenant of the store."""
        asked = ASKED | {"temperature": 0.0} | change
        if self.is_http:
            return await self.http(
                "POST", PATH, key, json=asked, headers={"x-request-timeout": str(timeout_s)} if timeout_s != 20 else {}
            )
        request = gateway_pb2.GenerateRequest(prompt=asked["prompt"])
        request.sampling.temperature = asked["temperature"]
        if asked["model"] != "auto":
            request.adapters.add(adapter=asked["model"])
        return await self.grpc("Generate", request, key, timeout_s)

    async def http(self, method: str, path: str, key: str | None = None, **options: Any) -> Told:
        """Any request."""
        bearer = {"authorization": f"Bearer {self.key if key is None else key}"}
        async with self.door.http() as http:
            answer = await http.request(method, path, **options | {"headers": bearer | options.get("headers", {})})
        return _told(answer.status_code, answer.content)

    async def grpc(self, rpc: str, request: Any, key: str | None = None, timeout_s: float = 20.0) -> Told:
        """Any call."""
        metadata = (("authorization", f"Bearer {self.key if key is None else key}"),)
        async with grpc.aio.insecure_channel(self.door.grpc_address) as channel:
            call = getattr(gateway_pb2_grpc.GatewayStub(channel), rpc)(request, timeout=timeout_s, metadata=metadata)
            try:
                if hasattr(call, "__aiter__"):
                    async for _ in call:
                        continue
                else:
                    await call
            except grpc.aio.AioRpcError as raised:
                error = from_rpc_error(raised)
                return f"{raised.code().name} {error.reason()}", str(error)
        return "OK", ""


def _told(status: int, body: bytes) -> Told:
    data = json.loads(body)
    return (status, data["error"]["message"]) if "error" in data else (status, "")


Provoke = Callable[[Asker], Awaitable[Told]]


def raised(error: Exception, at: str = "Execute", **change: Any) -> Provoke:
    """A service behind the gateway raises it."""

    async def provoke(asker: Asker) -> Told:
        for neighbour in (asker.door.executor, asker.door.adapters, asker.door.retrieval):
            neighbour.failures[at] = [error] * 3
        return await asker.generate(**change)

    return provoke


async def forbidden(asker: Asker) -> Told:
    if asker.is_http:  # what its routes do, users may; a store that thinks otherwise is heard
        return await raised(errors.PermissionDenied("not yours", remedy="ask"))(asker)
    return await asker.grpc("DeleteAdapter", gateway_pb2.DeleteAdapterRequest(adapter="one"))


async def too_large(asker: Asker) -> Told:
    return await asker.generate(prompt="x" * 5 * 2**20)


async def too_often(asker: Asker) -> Told:
    while not (told := await asker.generate())[1]:
        continue
    return told


async def late(asker: Asker) -> Told:
    asker.door.executor.delays_s["Execute"] = 5.0
    return await asker.generate(timeout_s=0.3)


async def on_the_wire(asker: Asker, sent: bytes) -> Told:
    wire = await Wire.to(asker.door.http_port)
    wire.send(sent)
    status, _, body = await wire.answer()
    await wire.close()
    return _told(status, body)


CASES: dict[tuple[str, int], Provoke] = {
    ("INVALID_INPUT", 400): lambda asker: asker.generate(temperature=-1.0),
    ("ADAPTER_REFUSED", 400): raised(errors.ExpertUnavailable.of(errors.AdapterRefused("rank 99"), 0)),
    ("WRONG_STATE", 400): raised(errors.WrongState("it has no chat template", remedy="send a prompt")),
    ("ENCODER_MISMATCH", 400): raised(errors.EncoderMismatch("vectors of x", remedy="reindex"), "Search", model="auto"),
    ("UNAUTHENTICATED", 401): lambda asker: asker.generate(key="rml-nothing"),
    ("PERMISSION_DENIED", 403): forbidden,
    ("NOT_FOUND", 404): lambda asker: asker.generate(model="nobody"),
    ("DEADLINE_EXCEEDED", 408): lambda asker: on_the_wire(asker, HEAD),
    ("ALREADY_EXISTS", 409): raised(errors.AlreadyExists("taken", remedy="use another"), "GetStored"),
    ("CONFLICT", 409): raised(errors.Conflict("version 3, not 2", remedy="read it again"), "GetStored"),
    ("LIMIT_EXCEEDED", 413): too_large,
    ("LIMIT_EXCEEDED", 429): too_often,
    ("LIMIT_EXCEEDED", 431): lambda asker: on_the_wire(asker, HEAD + b"x: y\r\n" * 200 + b"\r\n"),
    ("CANCELLED", 499): raised(errors.Cancelled("one was revoked", remedy="use another adapter")),
    ("INTERNAL", 500): raised(RuntimeError("a defect")),
    ("CORRUPT", 500): raised(errors.Corrupt("other bytes", remedy="upload it again"), "GetStored"),
    ("UNAVAILABLE", 503): raised(errors.Unavailable("it starts", remedy="retry")),
    ("DEADLINE_EXCEEDED", 504): late,
}

HTTP_ONLY = {408, 431}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[tuple[FrontDoor, str]]:
    keys = tmp_path / "keys.json"
    _, key = KeyFile(keys).add("ann", "default", Role.USER)
    limits = TenantLimitSettings(requests_per_minute=5)
    async with front_door(server={"idle_s": 1.0}, keys_file=keys, limits=limits) as door:
        yield door, key


def test_every_row_is_provoked_and_every_error_has_a_row() -> None:
    assert {row.key for row in ROWS} == set(CASES)
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert {row.kind for row in ROWS} == set(CODES) - {errors.ExpertUnavailable}  # which never leaves the gateway


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.http}-{row.key[0]}")
@pytest.mark.parametrize("port", ["http", "grpc"])
async def test_a_row_happens(door: tuple[FrontDoor, str], port: str, row: Row) -> None:
    if port == "grpc" and row.http in HTTP_ONLY:
        return  # gRPC itself ends such calls, see test_connections
    code, message = await CASES[row.key](Asker(*door, is_http=port == "http"))
    assert code == (row.http if port == "http" else f"{code_of(row.kind('')).name} {row.kind.reason()}"), message
    assert message


def test_the_page_has_every_row() -> None:
    page = statuses_page()
    for row in ROWS:
        assert f"| `{code_of(row.kind('')).name}` | {row.http} | `{row.kind.reason()}` |" in page
