"""A full disk is told as a limit, with what to do about it, and stays no fuller than it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from ramole.adapters.intake.spools import SpoolRoom
from ramole.adapters.intake.upload import Upload, UploadHeader
from ramole.adapters.servicer import AdaptersService
from ramole.adapters.store.local_files import LocalFiles
from ramole.core.errors import LimitExceeded, RamoleError
from ramole.core.names import AdapterName
from ramole.core.settings import ServerSettings, Settings
from ramole.lora.base import BaseShapes
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import GrpcServer
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc, gateway_pb2, records_pb2
from support.full_disk import disk_of, files_of_at_most, fill
from support.uploads import put_request

SIZE = 64 * 1024
SPACIOUS = 64 * 2**20
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(params=["small disk", "small files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Takes `SIZE` bytes, or files of so many."""
    if request.param == "small disk":
        with disk_of(tmp_path / "disk", SIZE) as path:
            yield path
    else:
        with files_of_at_most(SIZE):
            yield tmp_path


def check(error: RamoleError) -> None:
    assert isinstance(error, LimitExceeded)
    assert error.field == "data_dir"
    assert "data_dir" in error.remedy


def upload(scratch: Path) -> Upload:
    return Upload(scratch, 2**20, 3, SpoolRoom(2**20))


def test_a_spool_that_does_not_fit_is_gone_at_the_end(folder: Path) -> None:
    header = UploadHeader(AdapterName("default", "math"), ("1 + 1",))
    with pytest.raises(LimitExceeded) as caught, upload(folder) as stream:  # noqa: PT012 - the way out matters too
        stream.begin(header)
        for _ in range(3):
            stream.write(TENSORS, b"x" * (SIZE // 2))
    check(caught.value)
    assert list(folder.iterdir()) == []
    with upload(folder) as stream:
        stream.begin(header)
        stream.write(CONFIG, b"{}")
        stream.write(TENSORS, b"x" * (SIZE // 2))
        assert stream.finish().num_bytes == SIZE // 2 + 2


def test_what_is_still_in_the_buffer_does_not_fit(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", SIZE) as disk:
        (disk / "other").write_bytes(bytes(SIZE))
        with pytest.raises(LimitExceeded) as caught, upload(disk) as stream:  # noqa: PT012
            stream.begin(UploadHeader(AdapterName("default", "math"), ("1 + 1",)))
            stream.write(CONFIG, b"{}")
            stream.write(TENSORS, b"few")
            stream.finish()
        check(caught.value)
        assert [path.name for path in disk.iterdir()] == ["other"]


def test_an_object_or_manifest_that_does_not_fit_leaves_no_draft(folder: Path) -> None:
    (folder / "scratch").mkdir()
    files = LocalFiles(folder, folder / "scratch")
    for write in (files.write, files.create):
        with pytest.raises(LimitExceeded) as caught:
            write("manifests/t/a/1.json", b"x" * (SIZE + 1))
        check(caught.value)
        assert list((folder / "scratch").iterdir()) == []
        assert list(files.keys("manifests")) == []


async def test_the_client_hears_of_it(
    tmp_path: Path, base: BaseShapes, make_files: Callable[..., tuple[bytes, bytes]]
) -> None:
    with disk_of(tmp_path / "disk", SIZE) as disk:
        server = GrpcServer(AdaptersService(Settings(data_dir=disk), base), ServerSettings(grace_s=0.5))
        await server.start()
        filler = disk / "filler"
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = adapters_pb2_grpc.AdaptersStub(channel)
            header = put_request(header=records_pb2.UploadHeader(adapter="math", samples=["1 + 1"]))
            chunks = [
                put_request(chunk=records_pb2.FileChunk(file=name, data=data))
                for name, data in zip((CONFIG, TENSORS), make_files(rank=8), strict=True)
            ]
            with suppress(OSError):
                filler.write_bytes(bytes(SIZE))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Put(iter([header, *chunks]))
            check(from_rpc_error(caught.value))
            assert list((disk / "store" / "scratch").iterdir()) == []
            filler.unlink()
            assert (await stub.Put(iter([header, *chunks]))).created
        await server.stop()


@asynccontextmanager
async def serving(disk: Path, base: BaseShapes) -> AsyncIterator[adapters_pb2_grpc.AdaptersStub]:
    server = GrpcServer(AdaptersService(Settings(data_dir=disk / "data"), base), ServerSettings(grace_s=0.5))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield adapters_pb2_grpc.AdaptersStub(channel)
    finally:
        await server.stop()


async def put(stub: adapters_pb2_grpc.AdaptersStub, name: str, files: tuple[bytes, bytes]) -> None:
    header = put_request(header=records_pb2.UploadHeader(adapter=name, samples=["1 + 1"]))
    parts = zip((CONFIG, TENSORS), files, strict=True)
    chunks = [put_request(chunk=records_pb2.FileChunk(file=file, data=data)) for file, data in parts]
    staged = await stub.Put(iter([header, *chunks]))
    await stub.Publish(pb.PublishRequest(adapter=staged.record.adapter))


async def names(stub: adapters_pb2_grpc.AdaptersStub) -> list[str]:
    return [
        record.adapter.name
        for record in (
            await stub.ListStored(pb.ListStoredRequest(query=gateway_pb2.ListAdaptersRequest()))
        ).page.records
    ]


async def test_a_full_disk_takes_removals_and_restarts_but_no_upload(
    tmp_path: Path, base: BaseShapes, make_files: Callable[..., tuple[bytes, bytes]]
) -> None:
    with disk_of(tmp_path / "disk", SPACIOUS) as disk:
        async with serving(disk, base) as stub:
            for rank, name in enumerate("abcd", start=1):
                await put(stub, name, make_files(rank=rank))
            fill(disk)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await put(stub, "e", make_files(rank=5))
            check(from_rpc_error(caught.value))
            await stub.DeleteStored(pb.DeleteStoredRequest(adapter="a", comment="room"))
            fill(disk)
        fill(disk)
        async with serving(disk, base) as stub:
            assert await names(stub) == ["b", "c", "d"]
            fill(disk)
            await stub.DeleteStored(pb.DeleteStoredRequest(adapter="b", is_revocation=True, comment="room"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await put(stub, "e", make_files(rank=5))
            check(from_rpc_error(caught.value))
        async with serving(disk, base) as stub:
            assert await names(stub) == ["c", "d"]
            history = await stub.GetStoredHistory(pb.GetStoredHistoryRequest(adapter="a"))
            assert [(entry.removal, entry.comment) for entry in history.entries] == [("deleted", "room")]
            (disk / "filler").unlink()
            await put(stub, "e", make_files(rank=5))
            assert await names(stub) == ["c", "d", "e"]


async def test_a_disk_without_a_reserve_takes_restarts(
    tmp_path: Path, base: BaseShapes, make_files: Callable[..., tuple[bytes, bytes]]
) -> None:
    with disk_of(tmp_path / "disk", SPACIOUS) as disk:
        async with serving(disk, base) as stub:
            await put(stub, "a", make_files())
        (disk / "data" / "reserve").unlink()
        fill(disk)
        async with serving(disk, base) as stub:
            assert await names(stub) == ["a"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.DeleteStored(pb.DeleteStoredRequest(adapter="a"))
            check(from_rpc_error(caught.value))
            assert await names(stub) == ["a"]
