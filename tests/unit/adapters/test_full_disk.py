"""A full disk is told as a limit, with what to do about it, and stays no fuller than it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from ramole.adapters.local_files import LocalFiles
from ramole.adapters.servicer import AdaptersService
from ramole.adapters.spools import SpoolRoom
from ramole.adapters.upload import Upload, UploadHeader
from ramole.core.errors import LimitExceeded, RamoleError
from ramole.core.names import AdapterName
from ramole.core.settings import ServerSettings, Settings
from ramole.lora.base import BaseShapes
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import GrpcServer
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc
from support.full_disk import disk_of, files_of_at_most

SIZE = 64 * 1024
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
            header = pb.UploadRequest(header=pb.UploadHeader(adapter="math", samples=["1 + 1"]))
            chunks = [
                pb.UploadRequest(chunk=pb.FileChunk(file=name, data=data))
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
