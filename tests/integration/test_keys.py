"""A system with keys and certificates: both ports ask for them, and follow the file while they run."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openai import AsyncOpenAI

from ramole.client.client import RamoleClient
from ramole.core.errors import NotFound, PermissionDenied, RamoleError, Unauthenticated
from ramole.core.sampling import Sampling
from ramole.gateway.keys import KeyFile, Role
from ramole.zoo.catalog import Zoo
from support.certificates import Authority
from support.local_system import local_system

SHORT = Sampling(max_tokens=4)


class Door:
    """A system behind keys and TLS.

    Attributes:
        admin: an operator's key.
        keys: the file of all, as an operator changes it.
        ca: of the server's certificate.
    """

    def __init__(self, system: Any, folder: Path, admin: str) -> None:
        self.system = system
        self.admin = admin
        self.keys = KeyFile(folder / "data" / "keys.json")
        self.ca = folder / "ca.pem"
        self.audit = folder / "data" / "audit.jsonl"

    @property
    def address(self) -> str:
        """As the certificate has it."""
        address: str = self.system.address
        return address.replace("127.0.0.1", "localhost")

    def grpc(self, key: str = "") -> RamoleClient:
        return RamoleClient(self.address, key=key, ca_file=self.ca)

    def http(self, key: str = "") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        context = ssl.create_default_context(cafile=str(self.ca))
        return httpx.AsyncClient(base_url=f"https://{self.system.http_address}", headers=headers, verify=context)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    cert, key, _ = Authority().write(tmp_path, "ramole")
    _, admin = KeyFile(tmp_path / "data" / "keys.json").add("ops", "ops", Role.ADMIN)
    gateway = {"tls": {"cert_file": str(cert), "key_file": str(key)}}
    async with local_system(tmp_path / "data", gateway=gateway) as system:
        yield Door(system, tmp_path, admin)


async def refusal(call: Coroutine[Any, Any, Any]) -> RamoleError | None:
    """What the call fails with; None if it does not."""
    try:
        await call
    except RamoleError as error:
        return error
    return None


async def test_who_has_no_key_gets_nothing_but_health(door: Door) -> None:
    for key in ("", "rml-wrong", door.admin[:-1]):
        async with door.grpc(key) as client, door.http(key) as http:
            for call in (client.complete("x"), client.describe(), client.delete("x"), client.route("x")):
                assert isinstance(await refusal(call), Unauthenticated)
            for path in ("/v1/models", "/v1/models/x"):
                answer = await http.get(path)
                assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
            assert (await http.post("/v1/completions", json={"model": "auto", "prompt": "x"})).status_code == 401
            assert [(await http.get(path)).status_code for path in ("/health", "/ready")] == [200, 200]
            assert [(await http.get(path)).status_code for path in ("/docs", "/openapi.json")] == [404, 404]
    async with grpc.aio.secure_channel(door.address, grpc.ssl_channel_credentials(door.ca.read_bytes())) as channel:
        check = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        tell = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as hidden:
            await tell(iter([b""])).read()
        assert hidden.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with grpc.aio.insecure_channel(door.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


async def test_keys_come_and_go_while_the_server_runs(door: Door, zoo: Zoo) -> None:
    adapter = zoo.adapters[0]
    _, reader = door.keys.add("reader", "acme", Role.USER)
    publisher, writer = door.keys.add("ci", "acme", Role.PUBLISHER)
    _, stranger = door.keys.add("eve", "other", Role.PUBLISHER)
    async with door.grpc(writer) as ci, door.grpc(reader) as user, door.grpc(stranger) as eve:
        await until_known(ci)
        stored = await ci.upload(adapter.path, adapter.samples, adapter="mine")
        assert stored.record.ref.tenant == "acme"
        refused = await refusal(user.upload(adapter.path, adapter.samples, adapter="x"))
        assert isinstance(refused, PermissionDenied)
        assert isinstance(await refusal(user.delete("mine")), PermissionDenied)
        assert isinstance(await refusal(eve.complete("x", adapters=["acme/mine"])), NotFound)
        answer = await user.complete(adapter.prompts[0].prompt, adapters=["mine"], sampling=SHORT)
        async with door.http(reader) as http, door.http(stranger) as others:
            url = f"https://{door.system.http_address}/v1"
            ai = AsyncOpenAI(base_url=url, api_key=reader, http_client=http, max_retries=0)
            asked: dict[str, Any] = {"prompt": adapter.prompts[0].prompt, "temperature": 0, "max_tokens": 4}
            assert (await ai.completions.create(model="mine", **asked)).choices[0].text == answer.text
            assert "acme/mine" in [model.id async for model in ai.models.list()]
            ai = AsyncOpenAI(base_url=url, api_key=stranger, http_client=others, max_retries=0)
            assert "acme/mine" not in [model.id async for model in ai.models.list()]
            with pytest.raises(openai.NotFoundError):
                await ai.completions.create(model="acme/mine", **asked)
        door.keys.remove(publisher.id)
        async with asyncio.timeout(20):
            while not isinstance(await refusal(ci.describe()), Unauthenticated):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.05)
    async with door.grpc(door.admin) as ops:
        assert await ops.delete("acme/mine")
    told = door.audit.read_text()
    assert '"ci"' in told
    assert not [secret for secret in (door.admin, reader, writer, stranger) if secret in told]


async def until_known(client: RamoleClient) -> None:
    """A key is taken within half a second."""
    async with asyncio.timeout(20):
        while isinstance(await refusal(client.describe()), Unauthenticated):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.05)
