"""The repository managed over HTTP, on a real store and a real index: what the shared matrix of roles does not show."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ramole.adapters.servicer import AdaptersService
from ramole.core.call import Principal
from ramole.core.composition import Composition, Weighting
from ramole.core.errors import InvalidInput
from ramole.core.settings import AdapterSettings
from ramole.transport.identity import principal_to_metadata
from support.http_world import events
from support.real_world import SHAPES, adapter_files
from support.tenant_world import ANN, BOB, EVE, TenantWorld

MIB = 2**20
ADAPTERS = "/v1/adapters"
FORM = {"content-type": "multipart/form-data; boundary=b"}


async def started(folder: Path, **options: Any) -> TenantWorld:
    world = TenantWorld(folder)
    adapters = world.settings.adapters.model_copy(update=options)
    world.settings = world.settings.model_copy(update={"adapters": AdapterSettings(**adapters.model_dump())})
    world.adapters = AdaptersService(world.settings, SHAPES)  # type: ignore[assignment]
    await world.start()
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[TenantWorld]:
    world = await started(
        tmp_path, max_upload_bytes=512 * MIB, sources=(f"file://{tmp_path}/allowed",), max_spool_bytes=1024 * MIB
    )
    yield world
    await world.stop()


def of(who: Principal) -> dict[str, str]:
    return dict(principal_to_metadata(who))


def part(name: str, data: bytes, file: str = "") -> bytes:
    shown = f'; filename="{file}"' if file else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'.encode() + data + b"\r\n"


def form(number: int = 0, **header: Any) -> bytes:
    """A whole upload; the prompt ``n<number>`` finds it."""
    files = adapter_files(number)
    head = {"adapter": "mine", "samples": [f"sample n{number}"], **header}
    return b"".join(
        (
            part("header", json.dumps(head).encode()),
            part("config", files["adapter_config.json"], "adapter_config.json"),
            part("weights", files["adapter_model.safetensors"], "adapter_model.safetensors"),
            b"--b--\r\n",
        )
    )


async def put(world: TenantWorld, body: Any, who: Principal = ANN) -> httpx.Response:
    return await world.http.post(ADAPTERS, content=body, headers=FORM | of(who))


async def nothing_is_there(world: TenantWorld) -> None:
    assert await world.listed(EVE) == []
    history = await world.http.get(f"{ADAPTERS}/a/mine/history", headers=of(EVE))
    assert history.status_code == 404
    scratch = world.settings.data_dir / "store" / "scratch"
    async with asyncio.timeout(20):
        while True:
            if not list(scratch.iterdir()):
                return
            await asyncio.sleep(0.01)


async def test_an_upload_is_there_at_once_and_comes_back_as_it_went(world: TenantWorld) -> None:
    made = await put(world, form(3, tags=["de", "mail", "de"], is_public=True))
    assert made.status_code == 201
    record = made.json()["record"]
    assert record["adapter"] | {"digest": ""} == {"tenant": "a", "name": "mine", "version": 1, "digest": ""}
    assert (record["tags"], record["is_public"], record["samples"]) == (["de", "mail"], True, ["sample n3"])
    assert record["report"]["bytes"] == sum(map(len, adapter_files(3).values())), "a number, not a text"
    again = await put(world, form(3, tags=["mail", "de"], is_public=True))
    assert (again.status_code, again.json()["created"]) == (200, False)
    retagged = await put(world, form(3, tags=["fr"], is_public=True))
    assert (retagged.status_code, retagged.json()["record"]["adapter"]["version"]) == (201, 2)
    for path, name in (("config", "adapter_config.json"), ("weights", "adapter_model.safetensors")):
        answer = await world.http.get(f"{ADAPTERS}/a/mine@1/{path}", headers=of(BOB))
        assert answer.content == adapter_files(3)[name]
        assert (answer.headers["x-ramole-adapters"], answer.headers["etag"]) == (
            "a/mine@1",
            f'"{record["adapter"]["digest"]}"',
        )
    route = await world.http.post("/v1/route", json={"prompt": "prompt n3", "tags": ["fr"]}, headers=of(BOB))
    assert [hit["adapter"]["version"] for hit in route.json()["adapters"]] == [2]
    assert "doubt" not in route.json()
    back = await world.http.post(f"{ADAPTERS}/a/mine@1/rollback", json={"expected_version": 2}, headers=of(ANN))
    assert (back.status_code, back.json()["record"]["tags"]) == (201, ["de", "mail"]), "a rollback brings them back"
    for tags, found in ((["de"], [3]), (["fr"], []), (["de", "fr"], []), ([], [3])):
        route = await world.http.post("/v1/route", json={"prompt": "prompt n3", "tags": tags}, headers=of(ANN))
        assert [hit["adapter"]["version"] for hit in route.json()["adapters"]] == found, tags
        listed = await world.http.get(ADAPTERS, params={"tags": tags, "latest_only": True}, headers=of(ANN))
        assert [each["adapter"]["version"] for each in listed.json()["records"]] == found, tags
    versions = (await world.http.get(ADAPTERS, params={"tags": ["de"]}, headers=of(ANN))).json()["records"]
    assert [each["adapter"]["version"] for each in versions] == [1, 3]


async def test_the_typed_client_speaks_of_tags(world: TenantWorld, tmp_path: Path) -> None:
    client = world.client
    for number, tags in enumerate((["b", "a"], ["a"], [])):
        folder = tmp_path / f"n{number}"
        folder.mkdir()
        for name, data in adapter_files(number).items():
            (folder / name).write_bytes(data)
        done = await client.upload(folder, [f"sample n{number}"], tags=tags)
        assert done.record.tags == tuple(sorted(tags))
    for asked, names in ((["a"], {"n0", "n1"}), (["a", "b"], {"n0"}), (["c"], set()), ([], {"n0", "n1", "n2"})):
        assert {each.ref.name async for each in client.adapters(tags=asked)} == names
        route = await client.route("prompt n1", k=8, tags=asked)
        assert {each.ref.name for each in route.adapters} == names
        answer = await client.complete("prompt n1", composition=Composition(Weighting.UNIFORM, k=8), tags=asked)
        assert {each.ref.name for each in answer.routing.adapters} == names
    for refused, field in (
        (client.route("prompt n1", tags=["a", "A"]), "tags[1]"),
        (client.complete("prompt n1", tags=["no way"]), "tags[0]"),
        (client.complete("prompt n1", tags=["a"], adapters=["n0"]), "tags"),
        (client.complete("prompt n1", tags=["a"], composition=Composition(Weighting.UNIFORM, k=0)), "tags"),
        (client.upload(tmp_path / "n0", ["sample n0"], tags=["_"]), "header.tags[0]"),
        (anext(aiter(client.adapters(tags=["-"]))), "tags[0]"),
    ):
        with pytest.raises(InvalidInput) as error:
            await refused
        assert error.value.field == field


async def test_an_upload_may_name_its_source(world: TenantWorld, tmp_path: Path) -> None:
    folder = tmp_path / "allowed" / "peft"
    folder.mkdir(parents=True)
    for name, data in adapter_files(4).items():
        (folder / name).write_bytes(data)
    body = {"adapter": "mine", "samples": ["sample n4"], "source": f"file://{folder}"}
    made = await world.http.post(ADAPTERS, json=body, headers=of(ANN))
    assert (made.status_code, made.json()["record"]["source"]) == (201, f"file://{folder}")
    for change, field in (
        ({"source": "file:///etc"}, "source"), ({"source": ""}, "source"), ({"samples": []}, "samples"),
        ({"adapter": "a/b/c"}, "adapter"), ({"tags": ["No"]}, "tags[0]"), ({"tags": list("abcdefghijklmnopq")}, "tags"),
        ({"sha256": {}}, "sha256"), ({"expected_version": -1}, "expected_version"), ({"is_public": "yes"}, "is_public"),
    ):  # fmt: skip
        refused = await world.http.post(ADAPTERS, json=body | change, headers=of(ANN))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field), change
    assert await world.listed(ANN) == ["a/mine@1"]


WHOLE = form()
HEAD = part("header", json.dumps({"adapter": "mine", "samples": ["sample n0"]}).encode())
CONFIG = part("config", adapter_files(0)["adapter_config.json"])
WEIGHTS = part("weights", adapter_files(0)["adapter_model.safetensors"])
END = b"--b--\r\n"
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "body"),
    "no form": (b"x" * 1000, "body"),
    "no end": (WHOLE.removesuffix(END), "body"),
    "half": (WHOLE[: len(WHOLE) // 2], "body"),
    "another part": (HEAD + CONFIG + part("readme", b"x") + WEIGHTS + END, "readme"),
    "no name": (HEAD + b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "body"),
    "twice": (HEAD + CONFIG + CONFIG + WEIGHTS + END, "config"),
    "files first": (CONFIG + WEIGHTS + HEAD + END, "config"),
    "no header": (END, "header"),
    "no weights": (HEAD + CONFIG + END, "weights"),
    "no config": (HEAD + WEIGHTS + END, "config"),
    "empty weights": (HEAD + CONFIG + part("weights", b"") + END, "body"),
    "header no json": (part("header", b"{") + CONFIG + WEIGHTS + END, "header"),
    "header key": (part("header", b'{"adapter": "mine", "samples": ["x"], "public": true}') + END, "header.public"),
    "header source": (part("header", b'{"adapter": "mine", "source": "hf://a/b"}') + END, "header.source"),
    "header tag": (form(0, tags=["a", "B"]), "header.tags[1]"),
    "header name": (form(0, adapter="a b"), "header.adapter"),
    "header sha256": (form(0, sha256={"adapter_config.json": "0" * 64}), "header.sha256"),
    "no samples": (form(0, samples=[]), "header.samples"),
    "headers of a part": (b"--b\r\n" + b"x: y\r\n" * 1000 + b"\r\n" + END, "body"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_form_commits_nothing(world: TenantWorld, name: str) -> None:
    body, param = BROKEN[name]
    answer = await put(world, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    await nothing_is_there(world)


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "multipart/mixed; boundary=b", ""])
async def test_another_kind_of_body_is_refused(world: TenantWorld, kind: str) -> None:
    answer = await world.http.post(ADAPTERS, content=WHOLE, headers={"content-type": kind} | of(ANN))
    assert answer.status_code == 400
    await nothing_is_there(world)


async def test_a_connection_that_is_cut_commits_nothing(world: TenantWorld) -> None:
    for cut in (len(HEAD) - 10, len(HEAD + CONFIG) + 5, len(WHOLE) - 4):
        host, _, port = world.servers["gateway"].http_address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        names = "".join(f"{key}: {value}\r\n" for key, value in (FORM | of(ANN)).items())
        writer.write(f"POST {ADAPTERS} HTTP/1.1\r\nhost: x\r\n{names}content-length: {len(WHOLE)}\r\n\r\n".encode())
        writer.write(WHOLE[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await nothing_is_there(world)


class Large:
    """A form whose weights are so many bytes; knows how many were asked for."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.sent = num_bytes, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield HEAD + CONFIG + part("weights", b"").removesuffix(b"\r\n")
        piece = bytes(256 * 1024)
        while self.sent < self.num_bytes:
            self.sent += len(piece)
            yield piece
        yield b"\r\n" + END


async def test_memory_holds_pieces_of_a_large_upload(world: TenantWorld) -> None:
    await put(world, WHOLE)  # what is imported and kept on the way is there now
    tracemalloc.start()
    try:
        answer = await put(world, Large(200 * MIB))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400, "these are no tensors, which is seen once all are there"
    assert peak < 40 * MIB
    assert await world.listed(ANN) == ["a/mine@1"]


async def test_who_sends_waits_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await started(tmp_path, max_upload_bytes=512 * MIB)
    taken, gate = asyncio.Event(), asyncio.Event()

    async def stuck(*_: object) -> None:
        taken.set()
        await gate.wait()

    monkeypatch.setattr("ramole.adapters.servicer._receive", stuck)
    large = Large(256 * MIB)
    upload = asyncio.create_task(put(world, large))
    await taken.wait()
    done, _ = await asyncio.wait([upload], timeout=3)
    assert not done
    assert large.sent < 64 * MIB, "buffers of sockets and streams at most"
    upload.cancel()
    await asyncio.wait([upload])
    gate.set()
    await nothing_is_there(world)
    await world.stop()


@pytest.mark.parametrize(
    ("options", "status"), [({"max_upload_bytes": MIB}, 413), ({"max_spool_bytes": MIB}, 429)], ids=["size", "room"]
)
async def test_a_limit_holds_while_the_body_arrives(tmp_path: Path, options: dict[str, int], status: int) -> None:
    world = await started(tmp_path, **options)
    answer = await put(world, Large(64 * MIB))
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 429)
    assert (answer.headers.get("x-should-retry") == "true") == (status == 429)
    await nothing_is_there(world)
    await world.stop()


async def test_a_header_has_a_limit_too(world: TenantWorld) -> None:
    answer = await put(world, part("header", b" " * (4 * MIB + 1)) + END)
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "header")


async def test_a_rebuild_tells_its_progress_and_ends_with_who_listens(world: TenantWorld) -> None:
    for i in range(3):
        assert (await put(world, form(i, adapter=f"n{i}"))).status_code == 201
    world.embedding.loaded.insert(0, "new")
    gate = world.embedding.gates["Embed"] = asyncio.Event()
    async with world.http.stream("POST", "/v1/reindex", headers=of(EVE)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        first = await anext(events(answer))
        assert (first["done"], first["total"], first["encoder_id"]) == (0, 3, "new")
        busy = await world.http.post("/v1/reindex", headers=of(EVE))
        assert (busy.status_code, "already" in busy.json()["error"]["message"]) == (400, True)
    gate.set()
    async with asyncio.timeout(20):
        while True:  # the server hears of the end in its own time
            async with world.http.stream("POST", "/v1/reindex", headers=of(EVE)) as answer:
                if answer.status_code == 200:
                    *_, last = [step async for step in events(answer)]
                    break
    assert (last["generation"], last["done"], last["total"]) == (first["generation"], 3, 3), "it goes on where it was"


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", ADAPTERS, None), ("POST", ADAPTERS, {"adapter": "x", "samples": ["s"], "source": "hf://a/b"}),
    ("GET", f"{ADAPTERS}/a/mine", None), ("DELETE", f"{ADAPTERS}/a/mine", None),
    ("GET", f"{ADAPTERS}/a/mine/history", None), ("GET", f"{ADAPTERS}/a/mine/config", None),
    ("GET", f"{ADAPTERS}/a/mine/weights", None), ("POST", f"{ADAPTERS}/a/mine@1/rollback", {}),
    ("POST", f"{ADAPTERS}/a/mine/revoke", {}), ("POST", "/v1/reindex", {}), ("POST", "/v1/route", {"prompt": "x n1"}),
    ("GET", "/v1/server", None), ("GET", "/metrics", None),
    ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "a/b"}),
    ("POST", "/v1/unload_lora_adapter", {"lora_name": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=[f"{m} {p}" for m, p, _ in ROUTES])
async def test_what_is_not_known_is_refused_by_its_name(world: TenantWorld, method: str, path: str, body: Any) -> None:
    await put(world, WHOLE)
    ask: Callable[..., Any] = world.http.request
    answer = await ask(method, path, params={"surprise": 1}, json=body, headers=of(EVE))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "surprise")
    if body is not None:
        answer = await ask(method, path, json=body | {"surprise": 1}, headers=of(EVE))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "surprise")
    assert await world.listed(EVE) == ["a/mine@1"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"page_size": 1001}, "page_size"), ({"page_size": "many"}, "page_size"), ({"page_token": "x"}, "page_token"),
        ({"latest_only": "perhaps"}, "latest_only"), ({"tags": ["ok", "Not ok"]}, "tags[1]"),
        ([("tenant", "a"), ("tenant", "b")], "tenant"),
    ],
)  # fmt: skip
async def test_a_bad_filter_is_named(world: TenantWorld, query: Any, param: str) -> None:
    answer = await world.http.get(ADAPTERS, params=query, headers=of(ANN))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_metrics_are_for_operators(world: TenantWorld) -> None:
    for who in (ANN, BOB):
        assert (await world.http.get("/metrics", headers=of(who))).status_code == 403
    answer = await world.http.get("/metrics", headers=of(EVE))
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "ramole_requests_total" and sample.labels["service"] == "gateway"
    }
    assert found["GET /metrics", "PERMISSION_DENIED"] == 2
    assert not {"a/", "ann", "bob"} & set(answer.text.split('"'))


async def load(world: TenantWorld, who: Principal = ANN, **body: Any) -> httpx.Response:
    return await world.http.post("/v1/load_lora_adapter", json=body, headers=of(who))


async def unload(world: TenantWorld, who: Principal = ANN, **body: Any) -> httpx.Response:
    return await world.http.post("/v1/unload_lora_adapter", json=body, headers=of(who))


async def found_by(world: TenantWorld, prompt: str) -> list[str]:
    answer = await world.http.post("/v1/route", json={"prompt": prompt}, headers=of(ANN))
    return [f"{hit['adapter']['name']}@{hit['adapter']['version']}" for hit in answer.json()["adapters"]]


async def answered_by(world: TenantWorld, model: str) -> str:
    body = {"model": model, "prompt": "hello"}
    answer = await world.http.post("/v1/completions", json=body, headers=of(ANN))
    return answer.headers.get("x-ramole-adapters", str(answer.status_code))


async def test_scripts_for_vllm_load_and_unload(world: TenantWorld, tmp_path: Path) -> None:
    for number in (5, 6):
        folder = tmp_path / "allowed" / f"l{number}"
        folder.mkdir(parents=True)
        for name, data in adapter_files(number).items():
            (folder / name).write_bytes(data)
    allowed = f"{tmp_path}/allowed"
    done = await load(world, lora_name="lora", lora_path=f"{allowed}/l5")
    assert (done.status_code, done.text) == (200, "Success: LoRA adapter 'lora' added successfully.")
    assert await answered_by(world, "lora") == "a/lora@1"
    assert await found_by(world, "prompt n5") == [], "it came without samples"
    for again in ({}, {"lora_path": f"{allowed}/nowhere"}):
        refused = await load(world, **{"lora_name": "lora", "lora_path": f"{allowed}/l6"} | again)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_name")
        assert "already been loaded" in refused.json()["error"]["message"]
    for changed, status, param in (
        ({"lora_path": "/etc"}, 400, "lora_path"), ({"lora_path": f"{allowed}/l9"}, 400, "lora_path"),
        ({"lora_path": "../x"}, 400, "lora_path"), ({"lora_name": "a b"}, 400, "lora_name"),
        ({"lora_name": "b/x"}, 403, "lora_name"), ({"base_model_name": "other"}, 400, "base_model_name"),
    ):  # fmt: skip
        refused = await load(world, **{"lora_name": "x", "lora_path": f"{allowed}/l6"} | changed)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), refused.text
    done = await load(world, lora_name="lora", lora_path=f"{allowed}/l6", load_inplace=True, samples=["sample n6"])
    assert done.status_code == 200
    assert await answered_by(world, "lora") == "a/lora@2"
    assert await found_by(world, "prompt n6") == ["lora@2"], "with samples it is retrieved"
    done = await load(world, lora_name="lora", lora_path=f"{allowed}/l5", load_inplace=True)
    assert done.status_code == 200
    assert await found_by(world, "prompt n6") == [], "no version of a name is found whose latest is only named"
    world.embedding.loaded.insert(0, "new")
    async with world.http.stream("POST", "/v1/reindex", headers=of(EVE)) as answer:
        *_, last = [step async for step in events(answer)]
    assert last["total"] == 0
    assert await found_by(world, "prompt n6") == []
    await world.http.delete(f"{ADAPTERS}/a/lora@3", headers=of(ANN))
    assert await found_by(world, "prompt n6") == ["lora@2"], "the one before is the latest again"
    gone = await unload(world, lora_name="lora", lora_int_id=7)
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'lora' removed successfully.")
    assert await answered_by(world, "lora") == "404"
    assert (await unload(world, lora_name="lora")).status_code == 404
    assert (await unload(world, lora_name="b/lora")).status_code == 403


async def test_what_is_only_named_says_so_and_has_no_samples(world: TenantWorld) -> None:
    made = await put(world, form(5, samples=[], is_named_only=True))
    assert made.status_code == 201
    assert made.json()["record"]["report"]["num_samples"] == 0
    refused = await put(world, form(5, is_named_only=True))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "header.samples")
    again = await world.http.post(f"{ADAPTERS}/a/mine@1/rollback", headers=of(ANN))
    assert again.json()["created"] is False
    assert await found_by(world, "prompt n5") == []
