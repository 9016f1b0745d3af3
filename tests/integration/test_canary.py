"""A whole system with keys, real models included: what it is asked stays out of all that it writes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from ramole.gateway.keys import KeyFile, Role
from ramole.v1 import gateway_pb2, records_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from ramole.zoo.catalog import Zoo
from support.canary import CANARY, check_silent, overheard, texts, told_by
from support.local_system import local_system
from support.strangers import words

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPLATE = (
    "{% for m in messages %}{% if 'odd' in m.content %}{{ {}[m.content].x }}{% endif %}{{ m.content }}{% endfor %}"
)
PROMPT = f"{CANARY} {CANARY}"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Asker:
    """Asks both ports; keeps what it is told, but for answers."""

    def __init__(self, system: Any, data_dir: Path, key: str, zoo: Zoo) -> None:
        self.system = system
        self.data_dir = data_dir
        self.adapter = zoo.adapters[0]
        self.told: list[str] = []
        self.key = key

    @property
    def secrets(self) -> tuple[str, ...]:
        """What else must not be told: the key, and the secret of the services."""
        return self.key, *words(self.data_dir)

    async def http(self, path: str, body: Any, *, timeout_s: float = 60.0) -> str:
        """The status."""
        headers = {"authorization": f"Bearer {self.key}", "x-request-timeout": str(timeout_s)}
        async with httpx.AsyncClient(base_url=f"http://{self.system.http_address}", timeout=90) as http:
            answer = await http.post(path, json=body, headers=headers)
        self.told += [str(answer.headers), answer.text if answer.is_error else texts(answer.json())]
        return str(answer.status_code)

    async def complete(self, **change: Any) -> str:
        """A completion."""
        return await self.http("/v1/completions", {"model": "auto", "prompt": PROMPT, "max_tokens": 4} | change)

    async def chat(self, content: str) -> str:
        """A conversation."""
        messages = [{"role": "user", "content": content}]
        return await self.http("/v1/chat/completions", {"model": "auto", "messages": messages, "max_tokens": 4})

    async def rpc(self, name: str, request: Any, *, timeout_s: float = 60.0) -> str:
        """The code."""
        metadata = (("authorization", f"Bearer {self.key}"),)
        async with grpc.aio.insecure_channel(self.system.address) as channel:
            call = getattr(GatewayStub(channel), name)(request, metadata=metadata, timeout=timeout_s)
            try:
                if hasattr(call, "__aiter__"):
                    async for _ in call:
                        continue
                else:
                    await call
            except grpc.aio.AioRpcError as error:
                self.told.append(told_by(error))
                return error.code().name
        return "OK"

    async def upload(self, weights: Callable[[bytes], bytes] = bytes, **header: Any) -> str:
        """An upload, perhaps spoilt."""
        fields = {"adapter": "mine", "samples": [f"{CANARY} {sample}" for sample in self.adapter.samples]} | header
        data = {name: (self.adapter.path / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        data[WEIGHTS] = weights(data[WEIGHTS])
        chunks = [records_pb2.FileChunk(file=file, data=each) for file, each in data.items()]
        head = gateway_pb2.UploadAdapterRequest(header=records_pb2.UploadHeader(**fields))
        parts = [gateway_pb2.UploadAdapterRequest(chunk=chunk) for chunk in chunks]
        return await self.rpc("UploadAdapter", iter([head, *parts]))


def with_canary(data: bytes) -> bytes:
    """Real weights, of which some bytes are the canary."""
    return data[:-64] + CANARY.encode() * 8


def with_nan(data: bytes) -> bytes:
    return data[:-64] + b"\xff" * 32 + CANARY.encode() * 4


Case = tuple[Callable[[Asker], Awaitable[str]], str]

CASES: dict[str, Case] = {
    "upload": (lambda a: a.upload(), "OK"),
    "weights whose values are too large": (lambda a: a.upload(with_canary), "INVALID_ARGUMENT"),
    "weights that are not finite": (lambda a: a.upload(with_nan), "INVALID_ARGUMENT"),
    "weights cut off": (lambda a: a.upload(lambda data: with_canary(data)[:-7]), "INVALID_ARGUMENT"),
    "weights that are text": (lambda a: a.upload(lambda _: CANARY.encode() * 9), "INVALID_ARGUMENT"),
    "samples too long": (lambda a: a.upload(samples=[CANARY * 4000]), "INVALID_ARGUMENT"),
    "a prompt, routed": (lambda a: a.complete(), "200"),
    "a prompt for an adapter": (lambda a: a.complete(model="mine", logprobs=2), "200"),
    "a conversation": (lambda a: a.chat(PROMPT), "200"),
    "a conversation that its template breaks on": (lambda a: a.chat(f"odd {PROMPT}"), "400"),
    "a control token in a conversation": (lambda a: a.chat(f"{PROMPT} <eos> </s> <pad>"), "400"),
    "longer than the context": (lambda a: a.complete(prompt=f"{PROMPT} " * 150), "400"),
    "too late": (
        lambda a: a.http("/v1/completions", {"model": "auto", "prompt": PROMPT}, timeout_s=0.001), "504"),
    "over gRPC": (lambda a: a.rpc("Generate", gateway_pb2.GenerateRequest(prompt=PROMPT)), "OK"),
    "over gRPC, a bad field": (
        lambda a: a.rpc("Generate", gateway_pb2.GenerateRequest(prompt=PROMPT, sampling={"top_p": 2})),
        "INVALID_ARGUMENT"),
    "over gRPC, longer than the context": (
        lambda a: a.rpc("Generate", gateway_pb2.GenerateRequest(prompt=f"{PROMPT} " * 150)), "INVALID_ARGUMENT"),
    "over gRPC, too late": (
        lambda a: a.rpc("Generate", gateway_pb2.GenerateRequest(prompt=PROMPT), timeout_s=0.001),
        "DEADLINE_EXCEEDED"),
    "over gRPC, several": (
        lambda a: a.rpc("GenerateBatch", gateway_pb2.GenerateBatchRequest(
            requests=[{"prompt": PROMPT}, {"prompt": PROMPT, "adapters": [{"adapter": "nobody"}]}])), "OK"),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(tmp_path_factory: pytest.TempPathFactory, zoo: Zoo) -> AsyncIterator[Asker]:
    """Of a base with a chat template that quotes what it cannot do with."""
    folder = tmp_path_factory.mktemp("canary")
    shutil.copytree(zoo.base_path, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(TEMPLATE)
    _, key = KeyFile(folder / "data" / "keys.json").add("ann", "default", Role.PUBLISHER)
    async with local_system(folder / "data", base_model=str(folder / "base"), base_id=zoo.base_id) as system:
        yield Asker(system, folder / "data", key, zoo)


@pytest.mark.parametrize(("ask", "end"), CASES.values(), ids=CASES)
async def test_nothing_is_written(asker: Asker, ask: Callable[[Asker], Awaitable[str]], end: str, capfd: Any) -> None:
    asker.told.clear()
    with overheard() as heard:
        assert await ask(asker) == end, asker.told
    assert '"logger": "ramole.access"' in heard.text() or asker.told, "something is heard at all"
    check_silent("\n".join([heard.text(), *asker.told, *capfd.readouterr()]), *asker.secrets)


async def test_an_engine_that_fails_and_is_replaced_says_nothing_of_its_work(asker: Asker, capfd: Any) -> None:
    engine = asker.system._servers["executor"]._service._engine

    def fail(*_: object) -> None:
        raise ValueError(f"what was asked is {PROMPT}")

    asker.told.clear()
    with overheard() as heard:
        engine._runner.run = engine._runner.check_device = fail
        assert await asker.complete() in ("503", "500")
        async with asyncio.timeout(60):
            while await asker.complete() != "200":  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.2)
    assert "the engine failed" in heard.text()
    assert "ValueError" in heard.text()
    check_silent("\n".join([heard.text(), *asker.told, *capfd.readouterr()]), *asker.secrets)


def read(path: Path) -> str:
    return path.read_text()


async def test_nothing_is_kept_where_operators_look(asker: Asker) -> None:
    async with httpx.AsyncClient(base_url=f"http://{asker.system.http_address}") as http:
        page = (await http.get("/metrics", headers={"authorization": f"Bearer {asker.key}"})).text
    told = read(asker.data_dir / "audit.jsonl")
    assert {json.loads(line)["outcome"] for line in told.splitlines()} == {"ok", "AdapterRefused", "InvalidInput"}
    check_silent(page + told, *asker.secrets)
