"""Whatever comes of a call: no prompt, key, sample or weight is logged, counted or told, but to whom it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from prometheus_client import generate_latest

from ramole.core.errors import Corrupt, ExpertUnavailable, Unavailable
from ramole.core.settings import TenantLimitSettings
from ramole.gateway.keys import PREFIX, KeyFile, Role
from ramole.v1 import gateway_pb2, records_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.canary import CANARY, check_silent, overheard, texts, told_by
from support.front_door import Wire, post
from support.gateway_world import TRUST
from support.real_door import RealDoor
from support.real_world import adapter_files

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = f"{CANARY} {CANARY}n0"
UNKNOWN_KEY = PREFIX + CANARY + "x" * (43 - len(CANARY))
LOST = "closed"
"""What a client that goes away, or is cut off, sees."""


class Asker:
    """Asks both ports, and keeps all that it is told, but for the answers themselves.

    Attributes:
        told: all of it.
        key: of somebody who may change adapters.
    """

    def __init__(self, door: RealDoor, keys: KeyFile) -> None:
        self.door = door
        self.told: list[str] = []
        self.publisher, self.key = keys.add("ann", "default", Role.PUBLISHER)
        _, self.limited = keys.add("bob", "limited", Role.USER)

    async def http(self, method: str, path: str, *, key: str | None = None, **options: Any) -> str:
        """The status."""
        headers = {"authorization": f"Bearer {self.key if key is None else key}"} | options.pop("headers", {})
        async with self.door.http() as http:
            answer = await http.request(method, path, headers=headers, **options)
        self.told.append(str(answer.headers))
        if answer.is_error:
            self.told.append(answer.text)
        elif answer.headers["content-type"] == "application/json":
            self.told.append(texts(answer.json()))
        elif answer.headers["content-type"].startswith("text/event-stream"):
            events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
            self.told += [texts(json.loads(each)) for each in events]
            if '"error"' in events[-1]:
                return f"{answer.status_code} and an error"
        return str(answer.status_code)

    async def complete(self, *, key: str | None = None, timeout_s: float = 20.0, **change: Any) -> str:
        """A completion over HTTP."""
        body = {"model": "auto", "prompt": PROMPT, "stop": [f"{CANARY}!"], "user": CANARY} | change
        headers = {"x-request-timeout": str(timeout_s)} if timeout_s != 20 else {}
        return await self.http("POST", "/v1/completions", key=key, json=body, headers=headers)

    async def chat(self, **change: Any) -> str:
        """A conversation over HTTP."""
        messages = [{"role": "system", "content": CANARY}, {"role": "user", "content": PROMPT}]
        return await self.http("POST", "/v1/chat/completions", json={"model": "auto", "messages": messages} | change)

    async def rpc(
        self, name: str, request: Any, *, key: str | None = None, timeout_s: float = 20.0, cancels: bool = False
    ) -> str:
        """The code of a call over gRPC."""
        metadata = (("authorization", f"Bearer {self.key if key is None else key}"),)
        async with grpc.aio.insecure_channel(self.door.grpc_address) as channel:
            call = getattr(GatewayStub(channel), name)(request, timeout=timeout_s, metadata=metadata)
            if cancels:
                await self.door.executor.until("Execute")
                call.cancel()
            try:
                async for _ in _all_of(call):
                    continue
                self.told.append(str(await call.trailing_metadata()))
            except asyncio.CancelledError:
                return LOST
            except grpc.aio.AioRpcError as error:
                self.told.append(told_by(error))
                return error.code().name
        return "OK"

    async def generate(self, *, key: str | None = None, timeout_s: float = 20.0, **change: Any) -> str:
        """A prompt over gRPC."""
        fields = {"prompt": PROMPT, "sampling": {"stop": [f"{CANARY}!"]}} | change
        return await self.rpc("Generate", gateway_pb2.GenerateRequest(**fields), key=key, timeout_s=timeout_s)

    async def wire(self, sent: bytes) -> str:
        """The status of what is no proper request."""
        wire = await Wire.to(self.door.http_port)
        wire.send(sent)
        with suppress(OSError):
            wire.writer.write_eof()
        told = (await wire.rest()).decode("latin-1")
        await wire.close()
        self.told.append(told)
        return told.split(maxsplit=2)[1] if told else LOST

    def upload(self, number: int, *, spoilt: dict[str, bytes] | None = None, **header: Any) -> list[Any]:
        """The messages of an upload."""
        fields = {"adapter": f"up{number}", "samples": [f"{CANARY} sample n{number}"]} | header
        files = adapter_files(number) | (spoilt or {})
        chunks = [records_pb2.FileChunk(file=file, data=data) for file, data in files.items()]
        parts = [gateway_pb2.UploadAdapterRequest(chunk=chunk) for chunk in chunks]
        return [gateway_pb2.UploadAdapterRequest(header=records_pb2.UploadHeader(**fields)), *parts]


async def _all_of(call: Any) -> AsyncIterator[Any]:
    if hasattr(call, "__aiter__"):
        async for each in call:
            yield each
    else:
        yield await call


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asker]:
    folder = tmp_path_factory.mktemp("door")
    keys = KeyFile(folder / "keys.json")
    keys.add("ops", "ops", Role.ADMIN)
    door = RealDoor(folder)
    limits = {"limited": TenantLimitSettings(requests_per_minute=1)}
    door.open_both(server={"idle_s": 1.0}, keys_file=folder / "keys.json", tenant_limits=limits)
    asker = Asker(door, keys)
    await door.start_neighbours()
    await door.start_gateway()
    try:
        assert await asker.rpc("UploadAdapter", iter(asker.upload(0))) == "OK"
        yield asker
    finally:
        await door.stop()


Case = tuple[Callable[[Asker], Awaitable[str]], str]
"""What is asked, and how it ends."""

WEIGHTS = "adapter_model.safetensors"


def failing(error: Exception, ask: Callable[[Asker], Awaitable[str]], at: str = "Execute") -> Callable[[Asker], Any]:
    """A service behind the gateway raises it, whatever it quotes."""

    async def provoke(asker: Asker) -> str:
        for neighbour in (asker.door.executor, asker.door.embedding):
            neighbour.failures.clear()
            neighbour.failures[at] = [error] * 3
        try:
            return await ask(asker)
        finally:
            for neighbour in (asker.door.executor, asker.door.embedding):
                neighbour.failures.clear()

    return provoke


async def late(asker: Asker, ask: Callable[..., Awaitable[str]]) -> str:
    asker.door.executor.delays_s["Execute"] = 5.0
    try:
        return await ask(asker, timeout_s=0.3)
    finally:
        asker.door.executor.delays_s.clear()


async def endless(asker: Asker, ask: Callable[[], Awaitable[str]]) -> str:
    """The executor goes on until nobody listens."""
    executor = asker.door.executor
    executor.endless = CANARY
    executor.entered.clear()
    try:
        told = await ask()
        async with asyncio.timeout(20):
            while executor.num_running:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
    finally:
        executor.endless = ""
    return told


async def gone(asker: Asker) -> str:
    async def ask() -> str:
        wire = await Wire.to(asker.door.http_port)
        body = {"model": "auto", "prompt": PROMPT, "stream": True}
        wire.send(post("/v1/completions", body, authorization=f"Bearer {asker.key}"))
        await asker.door.executor.until("Execute")
        await wire.close()
        return LOST

    return await endless(asker, ask)


async def cancelled(asker: Asker) -> str:
    request = gateway_pb2.GenerateRequest(prompt=PROMPT)
    return await endless(asker, lambda: asker.rpc("Generate", request, cancels=True))


async def twice(ask: Callable[[], Awaitable[str]]) -> str:
    await ask()
    return await ask()


async def undecodable(asker: Asker) -> str:
    raw = gateway_pb2.GenerateRequest(prompt=PROMPT).SerializeToString()[:-1]
    async with grpc.aio.insecure_channel(asker.door.grpc_address) as channel:
        call = channel.unary_stream("/ramole.v1.Gateway/Generate")(
            raw, metadata=(("authorization", f"Bearer {asker.key}"),), timeout=20
        )
        try:
            async for _ in call:
                continue
        except grpc.aio.AioRpcError as error:
            asker.told.append(told_by(error))
            return error.code().name
    return "OK"


def form(asker: Asker, *, weights: bytes | None = None, header: Any = None, samples: Any = None) -> dict[str, Any]:
    """An upload as a form."""
    files = adapter_files(7)
    head = json.dumps({"adapter": "form", "samples": samples or [f"{CANARY} n7"]}) if header is None else header
    return {
        "files": [
            ("header", (None, head)),
            ("config", ("adapter_config.json", files["adapter_config.json"])),
            ("weights", (WEIGHTS, files[WEIGHTS] if weights is None else weights)),
        ]
    }


def uploading(number: int, **spoilt: Any) -> Callable[[Asker], Awaitable[str]]:
    return lambda asker: asker.rpc("UploadAdapter", iter(asker.upload(number, **spoilt)))


def posted(**change: Any) -> Callable[[Asker], Awaitable[str]]:
    return lambda asker: asker.http("POST", "/v1/adapters", **form(asker, **change))


BAD = CANARY.encode() * 40
DEFECT = ValueError(f"no such word: {PROMPT!r}")
EXPERT = ExpertUnavailable.of(Corrupt("other bytes"), 0)

CASES: dict[str, Case] = {
    "completion": (lambda a: a.complete(), "200"),
    "completion, streamed": (lambda a: a.complete(stream=True), "200"),
    "several prompts": (lambda a: a.complete(prompt=[PROMPT, CANARY], n=2, logprobs=1), "200"),
    "chat": (lambda a: a.chat(), "200"),
    "chat, streamed": (lambda a: a.chat(stream=True), "200"),
    "a prompt of the wrong type": (lambda a: a.complete(prompt={"text": CANARY}), "400"),
    "a prompt in a list of tokens": (lambda a: a.complete(prompt=[[CANARY]]), "400"),
    "a stop that is none": (lambda a: a.complete(stop={CANARY: 1}), "400"),
    "a stop that is too long": (lambda a: a.complete(stop=[CANARY * 20]), "400"),
    "a long prompt": (lambda a: a.complete(prompt=CANARY * 30), "400"),
    "a long query": (lambda a: a.complete(ramole={"query": CANARY * 30}), "400"),
    "half a character": (
        lambda a: a.http("POST", "/v1/completions", content=b'{"prompt": "' + CANARY.encode() + b' \\ud800"}'), "400",
    ),
    "a content of the wrong type": (lambda a: a.chat(messages=[{"role": "user", "content": {"x": CANARY}}]), "400"),
    "a content with a picture": (
        lambda a: a.chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": CANARY}]}]), "400",
    ),
    "nobody asks": (lambda a: a.chat(messages=[{"role": "assistant", "content": CANARY}]), "400"),
    "a bad temperature beside it": (lambda a: a.complete(temperature=-1), "400"),
    "an adapter that is not there": (lambda a: a.complete(model="nobody"), "404"),
    "an unknown key": (lambda a: a.complete(key=UNKNOWN_KEY), "401"),
    "a prompt as the key": (lambda a: a.complete(key=PROMPT), "401"),
    "over the tenant's limit": (lambda a: twice(lambda: a.complete(key=a.limited)), "429"),
    "a body too large": (lambda a: a.complete(prompt=CANARY * 2**20), "413"),
    "half a body": (lambda a: a.wire(post("/v1/completions", {"prompt": PROMPT}, authorization=f"Bearer {a.key}")[:-9]),
                    LOST),
    "no JSON": (lambda a: a.http("POST", "/v1/completions", content=f'{{"prompt": "{CANARY}'.encode()), "400"),
    "JSON of another kind": (lambda a: a.http("POST", "/v1/completions", json=[PROMPT]), "400"),
    "no HTTP": (lambda a: a.wire(BAD + b"\r\n\r\n"), "400"),
    "headers too large": (
        lambda a: a.wire(b"GET / HTTP/1.1\r\nauthorization: Bearer " + BAD * 300 + b"\r\n\r\n"), "431",
    ),
    "a defect": (failing(DEFECT, lambda a: a.complete()), "500"),
    "a defect, streamed": (failing(KeyError(PROMPT), lambda a: a.complete(stream=True), "step"),
                           "200 and an error"),
    "a defect of one of several": (failing(DEFECT, lambda a: a.complete(prompt=[PROMPT, CANARY])), "500"),
    "an expert fails": (failing(EXPERT, lambda a: a.complete(ramole={"adapters": [{"adapter": "up0"}]})), "500"),
    "the executor is down": (failing(Unavailable("it restarts"), lambda a: a.complete()), "503"),
    "embedding breaks": (failing(DEFECT, lambda a: a.complete(), "Embed"), "500"),
    "too slow": (lambda a: late(a, Asker.complete), "504"),
    "the client goes away": (gone, LOST),
    "route": (lambda a: a.http("POST", "/v1/route", json={"prompt": PROMPT}), "200"),
    "upload by form": (posted(), "201"),
    "weights that are text": (posted(weights=BAD), "400"),
    "weights that are no safetensors": (posted(weights=b"\x90" + BAD), "400"),
    "a bad header": (posted(header=f'{{"samples": ["{CANARY}'), "400"),
    "samples of the wrong type": (posted(header=json.dumps({"adapter": "form", "samples": {CANARY: 1}})), "400"),
    "an empty sample beside it": (posted(samples=[CANARY, ""]), "400"),
    "no form": (lambda a: a.http("POST", "/v1/adapters", content=BAD,
                                 headers={"content-type": "multipart/form-data; boundary=b"}), "400"),
    "generate": (lambda a: a.generate(), "OK"),
    "generate from messages": (
        lambda a: a.generate(prompt="", messages=[{"role": "user", "content": PROMPT}]), "OK",
    ),
    "generate: bad temperature": (
        lambda a: a.generate(sampling={"temperature": -1, "stop": [CANARY]}), "INVALID_ARGUMENT"),
    "generate: a long prompt": (lambda a: a.generate(prompt=CANARY * 30), "INVALID_ARGUMENT"),
    "generate: a long stop": (lambda a: a.generate(sampling={"stop": [CANARY * 20]}), "INVALID_ARGUMENT"),
    "generate: nobody asks": (
        lambda a: a.generate(prompt="", messages=[{"role": "assistant", "content": PROMPT}]), "INVALID_ARGUMENT"),
    "generate: not there": (lambda a: a.generate(adapters=[{"adapter": "nobody"}]), "NOT_FOUND"),
    "generate: an unknown key": (lambda a: a.generate(key=UNKNOWN_KEY), "UNAUTHENTICATED"),
    "generate: over the limit": (lambda a: twice(lambda: a.generate(key=a.limited)), "RESOURCE_EXHAUSTED"),
    "generate: a message too large": (lambda a: a.generate(prompt=CANARY * 2**20), "RESOURCE_EXHAUSTED"),
    "generate: no message": (undecodable, "INVALID_ARGUMENT"),
    "generate: a defect": (failing(DEFECT, lambda a: a.generate()), "INTERNAL"),
    "generate: an expert fails": (failing(EXPERT, lambda a: a.generate(adapters=[{"adapter": "up0"}])), "DATA_LOSS"),
    "generate: the executor is down": (failing(Unavailable("it restarts"), lambda a: a.generate()), "UNAVAILABLE"),
    "generate: too slow": (lambda a: late(a, Asker.generate), "DEADLINE_EXCEEDED"),
    "generate: cancelled": (cancelled, LOST),
    "a batch": (
        lambda a: a.rpc("GenerateBatch", gateway_pb2.GenerateBatchRequest(
            requests=[{"prompt": PROMPT}, {"prompt": PROMPT, "sampling": {"temperature": -1}}])), "OK"),
    "upload": (uploading(1), "OK"),
    "upload: weights that are text": (uploading(2, spoilt={WEIGHTS: BAD}), "INVALID_ARGUMENT"),
    "upload: weights that are JSON": (
        uploading(2, spoilt={WEIGHTS: json.dumps({CANARY: 1}).encode()}), "INVALID_ARGUMENT"),
    "upload: cut off": (
        uploading(2, spoilt={WEIGHTS: adapter_files(2)[WEIGHTS][:-8] + CANARY.encode()[:4]}), "INVALID_ARGUMENT"),
    "upload: other bytes than promised": (
        uploading(2, spoilt={WEIGHTS: adapter_files(2)[WEIGHTS][:-8] + CANARY.encode()}, sha256={WEIGHTS: "0" * 64}),
        "INVALID_ARGUMENT"),
    "upload: a long sample": (uploading(2, samples=[CANARY * 3000]), "INVALID_ARGUMENT"),
    "upload: the encoder breaks": (failing(DEFECT, uploading(3), "Embed"), "INTERNAL"),
    "upload: no key": (
        lambda a: a.rpc("UploadAdapter", iter(a.upload(4)), key=UNKNOWN_KEY), "UNAUTHENTICATED"),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "end"), CASES.values(), ids=CASES)
async def test_nothing_is_told(asker: Asker, ask: Callable[[Asker], Awaitable[str]], end: str, capfd: Any) -> None:
    asker.told.clear()
    with overheard() as heard:
        assert await ask(asker) == end
    written = heard.text()
    assert '"logger": "ramole.access"' in written or asker.told, "something is heard at all"
    secrets = [asker.key, asker.limited, TRUST.metadata[0][1]]
    check_silent("\n".join([written, *asker.told, *capfd.readouterr()]), *secrets)


def audited(data_dir: Path) -> str:
    return (data_dir / "audit.jsonl").read_text()


async def test_nothing_is_kept_where_operators_look(asker: Asker) -> None:
    """After all of the above: metrics of every service, and who did what."""
    await asker.complete()
    pages = [generate_latest(server.registry).decode() for server in asker.door.servers.values()]
    assert all("ramole_requests_total" in page for page in pages)
    told = audited(asker.door.settings.data_dir)
    assert '"upload"' in told
    check_silent("\n".join([*pages, told]), asker.key, asker.limited, TRUST.metadata[0][1])
