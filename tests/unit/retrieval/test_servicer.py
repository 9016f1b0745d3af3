"""The service over real gRPC, on a Milvus Lite folder."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from ramole.core.errors import EncoderMismatch, InvalidInput, LimitExceeded, Unavailable, WrongState
from ramole.core.settings import ServerSettings, Settings
from ramole.retrieval import servicer
from ramole.retrieval.doubt import MIN_ADAPTERS
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.servicer import RetrievalService
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import GrpcServer
from ramole.transport.vectors import vector_to_pb
from ramole.v1 import common_pb2
from ramole.v1.embedding_pb2 import Vector
from ramole.v1.retrieval_pb2 import (
    AdapterVectors,
    ListRowsRequest,
    RemoveRequest,
    SearchRequest,
    UpsertRequest,
)
from ramole.v1.retrieval_pb2_grpc import RetrievalStub
from support.full_disk import disk_of, fill


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
async def stub(settings: Settings) -> AsyncIterator[RetrievalStub]:
    server = GrpcServer(RetrievalService(settings), ServerSettings())
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield RetrievalStub(channel)
    await server.stop()


def ref(name: str, version: int = 1) -> common_pb2.AdapterRef:
    return common_pb2.AdapterRef(tenant="acme", name=name, version=version, digest="ab" * 32)


def packed(*numbers: float) -> Vector:
    return vector_to_pb(np.array(numbers, np.float32))


def upsert(name: str, *samples: tuple[float, ...]) -> UpsertRequest:
    vectors = AdapterVectors(adapter=ref(name), base_model="zoo", samples=[packed(*sample) for sample in samples])
    return UpsertRequest(adapters=[vectors], encoder_id="enc")


def search(*vector: float, k: int = 3, encoder_id: str = "enc") -> SearchRequest:
    return SearchRequest(vector=packed(*vector), encoder_id=encoder_id, base_model="zoo", tenant="acme", k=k)


async def test_upload_search_list_remove(stub: RetrievalStub) -> None:
    assert list((await stub.Search(search(1, 0))).hits) == []
    await stub.Upsert(upsert("mail", (1, 0), (0, 1)))
    await stub.Upsert(upsert("code", (0, 1)))
    answer = await stub.Search(search(0, 1))
    assert [hit.adapter for hit in answer.hits] == [ref("code"), ref("mail")]
    assert [hit.similarity for hit in answer.hits] == pytest.approx([1.0, 0.5**0.5], abs=1e-6)
    rows = [row async for row in stub.ListRows(ListRowsRequest())]
    assert {row.adapter.name for row in rows} == {"mail", "code"}
    await stub.Remove(RemoveRequest(adapters=[ref("code")]))
    assert [hit.adapter for hit in (await stub.Search(search(0, 1))).hits] == [ref("mail")]


async def test_errors_reach_the_client_with_their_field(stub: RetrievalStub) -> None:
    await stub.Upsert(upsert("mail", (1, 0)))
    for call, kind, field in (
        (stub.Search(search(1, 0, k=0)), InvalidInput, "k"),
        (stub.Search(search()), InvalidInput, "vector"),
        (stub.Search(search(1, 0, encoder_id="other")), EncoderMismatch, "encoder_id"),
        (stub.Upsert(upsert("mail")), InvalidInput, "samples"),
        (stub.Upsert(upsert("no name", (1, 0))), InvalidInput, "adapter"),
        (stub.Remove(RemoveRequest(adapters=[ref("mail", version=0)])), InvalidInput, "adapters"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        error = from_rpc_error(failure.value)
        assert (type(error), error.field) == (kind, field)


async def test_a_listing_that_is_given_up_harms_nobody(stub: RetrievalStub) -> None:
    await stub.Upsert(upsert("mail", (1, 0)))
    for _ in range(20):
        stub.ListRows(ListRowsRequest()).cancel()
    calls = [stub.ListRows(ListRowsRequest()) for _ in range(4)]
    for call in calls:
        assert await call.read() != grpc.aio.EOF
        call.cancel()
    assert len((await stub.Search(search(1, 0))).hits) == 1


async def test_uploads_and_searches_at_once(stub: RetrievalStub) -> None:
    await stub.Upsert(upsert("first", (1, 1)))
    uploads = [stub.Upsert(upsert(f"n{i}", (1, i))) for i in range(30)]
    searches = [stub.Search(search(1, 1)) for _ in range(30)]
    await asyncio.gather(*uploads)
    for call in searches:
        assert len((await call).hits) >= 1
    assert len([row async for row in stub.ListRows(ListRowsRequest())]) == 31


async def test_before_the_start_it_is_unavailable(settings: Settings) -> None:
    service = RetrievalService(settings)
    with pytest.raises(Unavailable):
        await service.Search(search(1, 0), None)  # type: ignore[arg-type]
    await service.close()


async def test_a_second_owner_of_the_folder_does_not_start(stub: RetrievalStub, settings: Settings) -> None:
    second = GrpcServer(RetrievalService(settings), ServerSettings())
    with pytest.raises(WrongState, match=r"retrieval\.uri"):
        await second.start()
    assert list((await stub.Search(search(1, 0))).hits) == []


async def test_a_server_that_is_not_there(settings: Settings) -> None:
    options = settings.retrieval.model_copy(update={"uri": "http://127.0.0.1:1", "timeout_s": 1.0})
    service = RetrievalService(settings.model_copy(update={"retrieval": options}))
    await service.start()
    with pytest.raises(Unavailable, match="does not answer"):
        await service.Search(search(1, 0), None)  # type: ignore[arg-type]
    await service.close()


async def test_the_service_learns_by_itself_when_to_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(servicer, "_CALIBRATION_PAUSE_S", 0.05)
    monkeypatch.setattr(servicer, "_FAILED_PAUSE_S", 0.05)
    failures = [ValueError("odd"), Unavailable("down")]
    loop, has_learned = asyncio.get_running_loop(), asyncio.Event()
    calibrate = VectorIndex.calibrate

    def failing_at_first(index: VectorIndex, base_model: str) -> bool:
        if failures:
            raise failures.pop()
        is_new = calibrate(index, base_model)
        if is_new:
            loop.call_soon_threadsafe(has_learned.set)
        return is_new

    monkeypatch.setattr(VectorIndex, "calibrate", failing_at_first)
    server = GrpcServer(RetrievalService(Settings(data_dir=tmp_path / "data", base_model="zoo")), ServerSettings())
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = RetrievalStub(channel)
        for i in range(MIN_ADAPTERS):
            angle = 0.05 * i
            samples = [(math.cos(angle + noise), math.sin(angle + noise)) for noise in (0, 0.01, 0.02)]
            await stub.Upsert(upsert(f"a{i}", *samples))
        async with asyncio.timeout(60):
            await has_learned.wait()
        found = await stub.Search(search(1, 0))
    await server.stop()
    assert found.HasField("doubt")
    assert 0 <= found.doubt <= 1
    assert len(found.hits) == 3
    assert {"doubt cannot be learned", "doubt is learned later: down"} <= set(caplog.messages)


async def test_a_full_disk_takes_removals_and_is_named_to_uploads(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", 64 * 2**20) as disk:
        for left in (["a", "b", "c"], ["b", "c"]):
            server = GrpcServer(RetrievalService(Settings(data_dir=disk / "data")), ServerSettings(grace_s=0.5))
            await server.start()
            async with grpc.aio.insecure_channel(server.address) as channel:
                stub = RetrievalStub(channel)
                if not (disk / "filler").exists():
                    for name in left:
                        await stub.Upsert(upsert(name, (1.0, 0.0)))
                fill(disk)
                assert sorted(hit.adapter.name for hit in (await stub.Search(search(1, 0))).hits) == left
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Upsert(upsert("late", (1.0, 0.0)))
                error = from_rpc_error(caught.value)
                assert isinstance(error, LimitExceeded)
                assert error.field == "data_dir"
                await stub.Remove(RemoveRequest(adapters=[ref(left[0])]))
                assert sorted(hit.adapter.name for hit in (await stub.Search(search(1, 0))).hits) == left[1:]
                fill(disk)
            await server.stop()
