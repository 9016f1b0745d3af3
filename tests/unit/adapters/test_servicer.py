"""The whole service through a real gRPC server: the production one, with its error interceptor."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import grpc
import pytest

from ramole.adapters.servicer import AdaptersService
from ramole.core.errors import (
    AdapterRefused,
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
    WrongState,
)
from ramole.core.settings import AdapterSettings, QuotaSettings, ServerSettings, Settings
from ramole.lora.base import BaseShapes
from ramole.lora.reader import read_adapter
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import GrpcServer
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc, gateway_pb2
from ramole.v1.records_pb2 import AdapterRecord, FileChunk, UploadHeader
from support.uploads import put_request

Files = tuple[bytes, bytes]
MakeFiles = Callable[..., Files]


@pytest.fixture
def service(tmp_path: Path, base: BaseShapes) -> AdaptersService:
    limits = AdapterSettings(max_upload_bytes=200_000, max_samples=3)
    return AdaptersService(Settings(data_dir=tmp_path, adapters=limits), base)


@pytest.fixture
async def server(service: AdaptersService) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(service, ServerSettings(grace_s=0.5))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def stub(server: GrpcServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield adapters_pb2_grpc.AdaptersStub(channel)


def messages(files: Files, adapter: str = "math", *, step: int = 1000, **header: Any) -> list[pb.PutRequest]:
    head = UploadHeader(**{"adapter": adapter, "samples": ["1 + 1"], **header})
    chunks = [
        put_request(chunk=FileChunk(file=name, data=data[start : start + step]))
        for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files, strict=True)
        for start in range(0, len(data), step)
    ]
    return [put_request(header=head), *chunks]


async def put(stub: Any, files: Files, adapter: str = "math", **header: Any) -> pb.PutResponse:
    return await stub.Put(iter(messages(files, adapter, **header)))


async def publish(stub: Any, files: Files, adapter: str = "math", **header: Any) -> AdapterRecord:
    staged = await put(stub, files, adapter, **header)
    return (await stub.Publish(pb.PublishRequest(adapter=staged.record.adapter))).record


async def fails(call: Any, kind: type[Exception], field: str = "") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert type(error) is kind
    assert error.field == field


async def listing(stub: Any, **query: Any) -> gateway_pb2.ListAdaptersResponse:
    return (await stub.ListStored(pb.ListStoredRequest(query=gateway_pb2.ListAdaptersRequest(**query)))).page


async def listed(stub: Any, **request: Any) -> list[str]:
    page = await listing(stub, **request)
    return [f"{r.adapter.tenant}/{r.adapter.name}@{r.adapter.version}" for r in page.records]


async def fetch(stub: Any, digest: str) -> tuple[bytes, bytes, int]:
    config, data, size = b"", b"", -1
    async for part in stub.Fetch(pb.FetchRequest(digest=digest)):
        if part.WhichOneof("part") == "header":
            config, size = part.header.config_json, part.header.size
        else:
            assert len(part.data) <= 2**20
            data += part.data
    return config, data, size


async def until_idle(server: GrpcServer) -> None:
    async with asyncio.timeout(10):
        while server.load() > 0:  # noqa: ASYNC110 - the server tells nobody when a broken call has been cleaned up
            await asyncio.sleep(0.01)


def scratch(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "scratch").iterdir())


async def test_life_of_an_adapter(stub: Any, make_files: MakeFiles, tmp_path: Path) -> None:
    files = make_files()
    sha256 = {"adapter_model.safetensors": hashlib.sha256(files[1]).hexdigest()}
    staged = await put(stub, files, samples=["1 + 1", "2 + 2"], is_public=True, sha256=sha256)
    record = staged.record
    assert staged.created
    assert (record.adapter.tenant, record.adapter.name, record.adapter.version) == ("default", "math", 1)
    assert (staged.is_live, record.base_model, record.is_public) == (False, "tiny", True)
    assert list(record.report.modules) == ["m.q", "m.v"]
    assert (record.report.rank, record.report.num_samples, list(record.samples)) == (2, 2, ["1 + 1", "2 + 2"])
    assert record.report.norm > 0
    assert await listed(stub) == []
    assert scratch(tmp_path) == []

    live = (await stub.Publish(pb.PublishRequest(adapter=record.adapter))).record
    assert await listed(stub) == ["default/math@1"]
    stored = await stub.GetStored(pb.GetStoredRequest(adapter="math"))
    assert (stored.record, stored.is_live) == (live, True)
    config, data, size = await fetch(stub, record.adapter.digest)
    assert (config, data, size) == (*files, len(files[1]))
    assert set(read_adapter(config, data).pairs) == {"m.q", "m.v"}

    again = await put(stub, files, samples=["1 + 1", "2 + 2"], is_public=True)
    assert (again.created, again.is_live, again.record) == (False, True, live)

    removed = (await stub.DeleteStored(pb.DeleteStoredRequest(adapter="math"))).removed
    assert list(removed) == [record.adapter]
    await fails(fetch(stub, record.adapter.digest), NotFound, "digest")
    await fails(stub.GetStored(pb.GetStoredRequest(adapter="math")), NotFound, "adapter")
    await fails(stub.DeleteStored(pb.DeleteStoredRequest(adapter="math")), NotFound, "adapter")
    assert (await put(stub, files)).record.adapter.version == 2


async def test_large_files_travel_in_chunks(tmp_path: Path, make_files: MakeFiles) -> None:
    base = BaseShapes("tiny", {"m.q": (64, 48), "m.v": (64, 32)})
    settings = Settings(data_dir=tmp_path, executor={"slot_rank": 4096}, adapters={"max_rank": 4096})  # type: ignore[arg-type]
    server = GrpcServer(AdaptersService(settings, base), ServerSettings(grace_s=0.5))
    await server.start()
    files = make_files(rank=4096)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        record = (await stub.Put(iter(messages(files, step=2**20)))).record
        assert (await fetch(stub, record.adapter.digest))[1] == files[1]
    await server.stop()
    assert len(files[1]) > 3 * 2**20


async def test_slots_are_as_wide_as_what_is_stored_and_wider_uploads_are_told_so(
    tmp_path: Path, make_files: MakeFiles
) -> None:
    """As it was when the store opened: an executor that starts later is as wide as those before it."""
    base = BaseShapes("tiny", {"m.q": (64, 48), "m.v": (64, 32)})

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Any]:
        server = GrpcServer(AdaptersService(Settings(data_dir=tmp_path, **settings), base), ServerSettings(grace_s=0.5))
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield adapters_pb2_grpc.AdaptersStub(channel)
        await server.stop()

    async def slot_rank(stub: Any) -> int:
        return (await stub.GetSlotRank(pb.GetSlotRankRequest())).slot_rank

    async with serving() as stub:
        assert await slot_rank(stub) == 16
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await put(stub, make_files(rank=24))
        error = from_rpc_error(refused.value)
        assert "has rank 24, this server takes up to 16" in error.message
        assert "set executor.slot_rank to 24" in error.remedy
    async with serving(executor={"slot_rank": 32}) as stub:
        record = (await put(stub, make_files(rank=24))).record
        await stub.Publish(pb.PublishRequest(adapter=record.adapter))
        assert await slot_rank(stub) == 32
    async with serving() as stub:
        assert await slot_rank(stub) == 24
        await put(stub, make_files(rank=20), "another")
        await stub.DeleteStored(pb.DeleteStoredRequest(adapter="math"))
        assert await slot_rank(stub) == 24
    async with serving(adapters={"max_rank": 8}) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await put(stub, make_files(rank=9), "third")
        assert "set adapters.max_rank to 9" in from_rpc_error(refused.value).remedy


async def test_refused_uploads_leave_nothing(stub: Any, make_files: MakeFiles, tmp_path: Path) -> None:
    config, tensors = make_files()
    await fails(put(stub, (config, tensors[:-8])), AdapterRefused, "adapter_model.safetensors")
    await fails(put(stub, (b'{"peft_type": "IA3"}', tensors)), AdapterRefused, "adapter_config.json:peft_type")
    await fails(put(stub, make_files(base_id="x")), WrongState, "adapter_config.json:base_model_name_or_path")
    await fails(put(stub, (config, tensors), base_model="x"), WrongState, "base_model")
    await fails(put(stub, (config, tensors), samples=[]), InvalidInput, "header.samples")
    await fails(put(stub, (config, tensors), "a/b/c"), InvalidInput, "header.adapter")
    await fails(put(stub, (config, b"")), InvalidInput, "chunk.file")
    await fails(put(stub, (config, bytes(300_000))), LimitExceeded, "chunk.data")
    await fails(stub.Put(iter(messages((config, tensors))[1:])), InvalidInput, "header")
    await fails(stub.Put(iter([put_request()])), InvalidInput, "part")
    await fails(put(stub, make_files(rank=17)), AdapterRefused, "adapter_config.json:r")
    assert scratch(tmp_path) == []
    assert list((tmp_path / "store").glob("*/*/*")) == []
    assert (await put(stub, make_files(base_id="/home/me"), base_model="tiny")).created


CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"target_modules": ["m.q"]}, f"{CONFIG}:target_modules", "does not select, and PEFT would leave out: m.v"),
        ({"exclude_modules": ".*q"}, f"{CONFIG}:exclude_modules", "leave out: m.q"),
        ({"target_modules": "[\x01-\U0010ffff]" * 204}, f"{CONFIG}:target_modules", "not ASCII"),
        ({"target_modules": None}, f"{CONFIG}:target_modules", "does not say"),
        ({"rank_pattern": {"(a?){40}" * 40: 2}}, f"{CONFIG}:rank_pattern", "too long"),
        ({"alpha_pattern": {"q": 1e300}}, f"{CONFIG}:alpha_pattern", "'q': 1e+300"),
        ({"\ud800": 1}, rf"{CONFIG}:\ud800", "surrogates"),
    ],
)
async def test_a_config_that_is_refused_is_refused_by_its_key(
    changes: dict[str, Any], field: str, words: str, stub: Any, make_files: MakeFiles
) -> None:
    config, tensors = make_files()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(stub, (json.dumps(json.loads(config) | changes).encode(), tensors))
    error = from_rpc_error(caught.value)
    assert isinstance(error, AdapterRefused)
    assert error.field == field
    assert words in error.message
    assert error.remedy
    assert (await put(stub, (config, tensors))).created


@pytest.mark.parametrize("file", [CONFIG, TENSORS])
async def test_a_file_that_is_no_adapter_is_said_to_be_what_it_is(file: str, stub: Any, make_files: MakeFiles) -> None:
    config, tensors = make_files()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(stub, (pointer, tensors) if file == CONFIG else (config, pointer))
    error = from_rpc_error(caught.value)
    assert isinstance(error, AdapterRefused)
    assert (error.field, "Git LFS pointer" in error.message) == (file, True)
    assert "git lfs pull" in error.remedy


async def test_retries_and_races(stub: Any, make_files: MakeFiles) -> None:
    first = await put(stub, make_files(1), idempotency_key="k", expected_version=0)
    again = await put(stub, make_files(1), idempotency_key="k", expected_version=0)
    assert (again.created, again.record.adapter) == (False, first.record.adapter)
    await fails(put(stub, make_files(2), idempotency_key="k"), AlreadyExists, "idempotency_key")
    await stub.Publish(pb.PublishRequest(adapter=first.record.adapter))
    await fails(put(stub, make_files(2), expected_version=0), Conflict, "expected_version")
    second = await put(stub, make_files(2), expected_version=1)
    await stub.Discard(pb.DiscardRequest(adapter=second.record.adapter))
    await fails(stub.Publish(pb.PublishRequest(adapter=second.record.adapter)), NotFound, "adapter")
    await fails(stub.Discard(pb.DiscardRequest(adapter=first.record.adapter)), WrongState, "adapter")


async def test_pages(stub: Any, make_files: MakeFiles) -> None:
    for adapter in ("c", "a", "b", "t/a"):
        await publish(
            stub, make_files(hash(adapter) % 97), adapter, samples=[f"of {adapter}", "x" * 9][: 1 + (adapter == "a")]
        )
    await publish(stub, make_files(5), "a")
    everything = ["default/a@1", "default/a@2", "default/b@1", "default/c@1", "t/a@1"]
    assert await listed(stub) == everything
    assert await listed(stub, base_model="tiny") == everything
    assert await listed(stub, base_model="other") == []
    found, token = [], ""
    while True:
        page = await listing(stub, page_size=2, page_token=token, without_samples=True)
        assert all(not record.samples and record.report.num_samples for record in page.records)
        found += [f"{r.adapter.tenant}/{r.adapter.name}@{r.adapter.version}" for r in page.records]
        token = page.next_page_token
        if not token:
            break
    assert found == everything
    for bad in ("x", "W10=", "bnVsbA==", "é"):
        await fails(listing(stub, page_token=bad), InvalidInput, "page_token")
    await fails(listing(stub, page_size=1001), InvalidInput, "page_size")


async def test_a_page_never_outgrows_a_message(stub: Any, make_files: MakeFiles) -> None:
    samples = [f"{number}{'é' * 16_000}" for number in range(3)]
    for number in range(30):
        await publish(stub, make_files(1), f"n{number:02}", samples=samples)
    first = await listing(stub)
    assert 1 < len(first.records) < 30
    rest = await listing(stub, page_token=first.next_page_token)
    assert [r.adapter.name for r in (*first.records, *rest.records)] == [f"n{n:02}" for n in range(30)]


async def test_a_client_that_hangs_up_commits_nothing(
    stub: Any, server: GrpcServer, make_files: MakeFiles, tmp_path: Path
) -> None:
    parts = messages(make_files())
    is_sent, never = asyncio.Event(), asyncio.Event()

    async def half() -> AsyncIterator[pb.PutRequest]:
        for part in parts[:-1]:
            yield part
        is_sent.set()
        await never.wait()

    call = stub.Put(half())
    await is_sent.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_idle(server)
    assert scratch(tmp_path) == []
    assert (await put(stub, make_files())).record.adapter.version == 1


async def test_filters_of_a_listing(stub: Any, make_files: MakeFiles) -> None:
    for number, adapter in enumerate(("math", "math", "maths", "t/math")):
        await publish(stub, make_files(number), adapter)
    assert await listed(stub, tenant="t") == ["t/math@1"]
    assert await listed(stub, name_prefix="maths") == ["default/maths@1"]
    assert await listed(stub, latest_only=True) == ["default/math@2", "default/maths@1", "t/math@1"]
    assert await listed(stub, latest_only=True, tenant="default", name_prefix="ma", page_size=1) == ["default/math@2"]


async def test_rollback_and_history(stub: Any, make_files: MakeFiles) -> None:
    for number in (1, 2):
        await publish(stub, make_files(number), "math", samples=[f"sample {number}"])
    staged = await stub.Restage(pb.RestageRequest(adapter="math@1", expected_version=2))
    assert staged.created
    assert (staged.record.adapter.version, staged.record.samples[0], staged.record.source) == (
        3,
        "sample 1",
        "default/math@1",
    )
    await stub.Publish(pb.PublishRequest(adapter=staged.record.adapter))
    await fails(stub.Restage(pb.RestageRequest(adapter="math@2", expected_version=2)), Conflict, "expected_version")
    await fails(stub.Restage(pb.RestageRequest(adapter="math")), InvalidInput, "adapter")
    stale = pb.DeleteStoredRequest(adapter="math@2", expected_version=2)
    await fails(stub.DeleteStored(stale), Conflict, "expected_version")
    await stub.DeleteStored(
        pb.DeleteStoredRequest(adapter="math@2", comment="no good", is_revocation=True, expected_version=3)
    )
    entries = (await stub.GetStoredHistory(pb.GetStoredHistoryRequest(adapter="math"))).entries
    assert [(e.adapter.version, e.source, e.removal, e.comment, e.HasField("removed_at")) for e in entries] == [
        (3, "default/math@1", "", "", False),
        (2, "", "revoked", "no good", True),
        (1, "", "", "", False),
    ]
    await fails(stub.GetStoredHistory(pb.GetStoredHistoryRequest(adapter="nobody")), NotFound, "adapter")
    long = pb.DeleteStoredRequest(adapter="math", comment="x" * 300)
    await fails(stub.DeleteStored(long), InvalidInput, "comment")


@pytest.fixture
def strict(tmp_path: Path, base: BaseShapes) -> AdaptersService:
    quota = QuotaSettings(max_adapters=2, max_bytes=6_000, uploads_per_minute=6)
    limits = AdapterSettings(quota=quota, keep_versions=1)
    return AdaptersService(Settings(data_dir=tmp_path, adapters=limits), base)


async def test_quotas_retention_and_what_the_audit_log_says(
    strict: AdaptersService, make_files: MakeFiles, tmp_path: Path
) -> None:
    server = GrpcServer(strict, ServerSettings(grace_s=0.5))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        first = await publish(stub, make_files(1), "a")
        second = await publish(stub, make_files(2), "a")
        assert await listed(stub) == ["default/a@2"], "older versions expire at once"
        await fails(fetch(stub, first.adapter.digest), NotFound, "digest")
        await fails(put(stub, make_files(3, rank=8), "b"), LimitExceeded, "quota.max_bytes")
        await publish(stub, make_files(3), "b")
        await fails(put(stub, make_files(4), "c"), LimitExceeded, "quota.max_adapters")
        await fails(put(stub, (b"{}", b"{}"), "a"), AdapterRefused, "adapter_config.json:peft_type")
        await fails(put(stub, make_files(5), "a"), LimitExceeded, "quota.uploads_per_minute")
        remove = pb.DeleteStoredRequest(adapter="b", comment="why")
        metadata = (("x-request-id", "r1"), ("x-ramole-name", "alice"))
        await stub.DeleteStored(remove, metadata=metadata)
    await server.stop()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["adapter"], line["outcome"]) for line in lines] == [
        ("upload", "default/a@1", "ok"),
        ("publish", "default/a@1", "ok"),
        ("upload", "default/a@2", "ok"),
        ("publish", "default/a@2", "ok"),
        ("expire", "default/a@1", "ok"),
        ("upload", "b", "LimitExceeded"),
        ("upload", "default/b@1", "ok"),
        ("publish", "default/b@1", "ok"),
        ("upload", "c", "LimitExceeded"),
        ("upload", "a", "AdapterRefused"),
        ("upload", "a", "LimitExceeded"),
        ("delete", "default/b@1", "ok"),
    ]
    assert lines[3]["digest"] == second.adapter.digest
    assert "peft_type" in lines[9]["reason"] or "not supported" in lines[9]["reason"]
    last = lines[-1]
    assert (last["who"], last["request_id"], last["detail"]) == ("alice", "r1", "why")
    assert all(line["time"] and line["request_id"] for line in lines)


async def test_an_adapter_is_fetched_from_its_source(tmp_path: Path, base: BaseShapes, make_files: MakeFiles) -> None:
    memory = fsspec.filesystem("memory")
    for adapter, files in {"good": make_files(), "zeros": (make_files()[0], bytes(400_000))}.items():
        for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files, strict=True):
            memory.pipe_file(f"/servicer/{adapter}/{name}", data)
    limits = AdapterSettings(sources=("memory://servicer",), max_upload_bytes=200_000)
    server = GrpcServer(
        AdaptersService(Settings(data_dir=tmp_path, adapters=limits), base), ServerSettings(grace_s=0.5)
    )
    await server.start()

    def header(source: str, **more: Any) -> pb.PutRequest:
        return put_request(header=UploadHeader(adapter="math", samples=["x", "y", "x"], source=source, **more))

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        sha256 = {"adapter_model.safetensors": hashlib.sha256(make_files()[1]).hexdigest()}
        record = (await stub.Put(iter([header("memory://servicer/good", sha256=sha256)]))).record
        assert (record.source, record.report.num_samples) == ("memory://servicer/good", 2)
        assert (await fetch(stub, record.adapter.digest))[:2] == make_files()
        await fails(stub.Put(iter([header("memory://other/good")])), InvalidInput, "header.source")
        await fails(stub.Put(iter([header(f"file://{tmp_path}")])), InvalidInput, "header.source")
        await fails(stub.Put(iter([header("memory://servicer/none")])), InvalidInput, "header.source")
        await fails(stub.Put(iter([header("memory://servicer/zeros")])), LimitExceeded, "chunk.data")
        wrong = {"adapter_model.safetensors": "0" * 64}
        await fails(stub.Put(iter([header("memory://servicer/good", sha256=wrong)])), InvalidInput, "header.sha256")
        both = [header("memory://servicer/good"), *messages(make_files())[1:]]
        await fails(stub.Put(iter(both)), InvalidInput, "chunk")
        assert scratch(tmp_path) == []
    await server.stop()


async def test_half_open_uploads_of_one_tenant_are_few(tmp_path: Path, base: BaseShapes, make_files: MakeFiles) -> None:
    service = AdaptersService(
        Settings(data_dir=tmp_path, adapters=AdapterSettings(quota=QuotaSettings(uploads_at_once=2))), base
    )
    server = GrpcServer(service, ServerSettings(grace_s=0.5))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        calls = []
        for i in range(2):
            calls.append(stub.Put())
            await calls[i].write(messages(make_files(), f"hoarder/n{i}")[0])
        async with asyncio.timeout(10):
            with suppress(grpc.aio.AioRpcError):
                while True:  # until both headers are read
                    await put(stub, make_files(), "hoarder/late")
        await fails(put(stub, make_files(), "hoarder/late"), LimitExceeded, "quota.uploads_at_once")
        assert (await put(stub, make_files(), "other/math")).created
        calls[0].cancel()
        async with asyncio.timeout(10):
            while server.load() > 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert (await put(stub, make_files(), "hoarder/math")).created
    await server.stop()


class GatedModules(dict[str, tuple[int, int]]):
    """Holds an admission up in its thread, at the first module that it looks up."""

    def __init__(self, modules: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(modules)
        self.entered, self.gate = threading.Event(), threading.Event()

    def get(self, key: str, default: Any = None) -> Any:
        self.entered.set()
        assert self.gate.wait(10)
        return super().get(key, default)


async def test_hanging_up_during_admission_commits_nothing(
    tmp_path: Path, base: BaseShapes, make_files: MakeFiles
) -> None:
    modules = GatedModules(base.modules)
    service = AdaptersService(Settings(data_dir=tmp_path), BaseShapes("tiny", modules))
    server = GrpcServer(service, ServerSettings(grace_s=0.5))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        call = stub.Put(iter(messages(make_files())))
        running = asyncio.ensure_future(call)
        await asyncio.to_thread(modules.entered.wait, 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        modules.gate.set()
        await until_idle(server)
        assert scratch(tmp_path) == []
        assert list((tmp_path / "store" / "objects").glob("*/*")) == []
        await fails(stub.GetStored(pb.GetStoredRequest(adapter="math@1")), NotFound, "adapter")
    await server.stop()


async def test_start_waits_for_a_draining_predecessor(tmp_path: Path, base: BaseShapes) -> None:
    impatient = Settings(data_dir=tmp_path, adapters={"server": {"grace_s": 0}})  # type: ignore[arg-type]
    old, late, new = (
        AdaptersService(s, base) for s in (Settings(data_dir=tmp_path), impatient, Settings(data_dir=tmp_path))
    )
    await old.start()
    with pytest.raises(Unavailable, match="another process"):
        await late.start()
    starting = asyncio.create_task(new.start())
    await asyncio.sleep(0)
    await old.close()
    await starting
    await new.close()


async def test_stored_damage_is_data_loss(stub: Any, make_files: MakeFiles, tmp_path: Path) -> None:
    record = await publish(stub, make_files())
    path = next((tmp_path / "store" / "objects").glob("*/*/adapter_model.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    await fails(fetch(stub, record.adapter.digest), Corrupt, "digest")


async def test_restart_serves_what_was_live(tmp_path: Path, base: BaseShapes, make_files: MakeFiles) -> None:
    digest = ""
    for _ in range(2):
        server = GrpcServer(AdaptersService(Settings(data_dir=tmp_path), base), ServerSettings(grace_s=0.5))
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = adapters_pb2_grpc.AdaptersStub(channel)
            if not digest:
                digest = (await publish(stub, make_files())).adapter.digest
                await put(stub, make_files(1), "unfinished")
            assert await listed(stub) == ["default/math@1"]
            assert (await fetch(stub, digest))[1] == make_files()[1]
        await server.stop()


HALF = "a\ud800"


@pytest.mark.parametrize(
    "change",
    [{HALF: 1}, {"rank_pattern": {HALF: 3}}, {"alpha_pattern": {HALF: 3}}, {"peft_type": HALF}, {"bias": HALF}],
)
async def test_half_a_character_in_a_configuration_is_refused_by_its_key(
    stub: Any, make_files: MakeFiles, change: dict[str, Any]
) -> None:
    config, tensors = make_files()
    field = f"adapter_config.json:{next(iter(change))}".replace("\ud800", "\\ud800")
    await fails(put(stub, (json.dumps(json.loads(config) | change).encode(), tensors)), AdapterRefused, field)


async def test_a_zero_byte_is_a_character_as_any_other(stub: Any, make_files: MakeFiles) -> None:
    record = await publish(stub, make_files(), samples=["a\0b"])
    got = await stub.GetStored(pb.GetStoredRequest(adapter="math"))
    assert list(got.record.samples) == ["a\0b"]
    await stub.DeleteStored(pb.DeleteStoredRequest(adapter="math", comment="\0\x1b"))
    history = await stub.GetStoredHistory(pb.GetStoredHistoryRequest(adapter="math"))
    assert [(entry.adapter, entry.comment) for entry in history.entries] == [(record.adapter, "\0\x1b")]
