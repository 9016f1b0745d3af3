"""A source that hangs costs its own time and place, and nobody else's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import grpc
import pytest

from ramole.adapters.intake.ingest import Ingest
from ramole.adapters.intake.upload import Upload, UploadHeader
from ramole.adapters.servicer import AdaptersService
from ramole.adapters.store.store import Store
from ramole.core.call import CallContext, call_scope
from ramole.core.errors import LimitExceeded, Unavailable
from ramole.core.names import AdapterName
from ramole.core.settings import AdapterSettings, QuotaSettings, ServerSettings, Settings
from ramole.lora.base import BaseShapes
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import GrpcServer
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc, records_pb2
from support.uploads import put_request

PLACES = 4

MakeFiles = Callable[..., tuple[bytes, bytes]]
MakeIngest = Callable[..., Ingest]


class HangingServer:
    """Accepts connections and never answers."""

    def __init__(self, listener: socket.socket) -> None:
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.accepted = threading.Semaphore(0)
        self._listener = listener
        self._connections: list[socket.socket] = []

    def run(self) -> None:
        """Until the listener is shut down; then it hangs up."""
        try:
            while True:
                self._connections.append(self._listener.accept()[0])
                self.accepted.release()
        except OSError:
            for connection in self._connections:
                connection.close()


@contextmanager
def hanging_server() -> Iterator[HangingServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HangingServer(listener)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    for fetch in fetches():
        fetch.join()


def fetches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fetch"]


@pytest.fixture
def make_ingest(tmp_path: Path, base: BaseShapes) -> Iterator[MakeIngest]:
    store = Store.open(tmp_path / "store")

    def make(server: HangingServer, **options: Any) -> Ingest:
        options = {
            "sources": ("hf://", "memory://"),
            "source_options": {"hf": {"endpoint": server.endpoint}},
            **options,
        }
        return Ingest(Settings(data_dir=tmp_path, adapters=AdapterSettings(**options)), store, base, slot_rank=16)

    yield make
    store.close()


def begin(ingest: Ingest, stack: ExitStack, source: str = "hf://org/repo") -> Upload:
    upload = stack.enter_context(ingest.begin())
    upload.begin(UploadHeader(AdapterName("default", "math"), ("1 + 1",), source=source))
    return upload


async def test_a_fetch_ends_with_its_time(make_ingest: MakeIngest) -> None:
    with hanging_server() as server, ExitStack() as stack:
        ingest = make_ingest(server, source_timeout_s=0.2)
        with pytest.raises(Unavailable, match=r"not read within 0\.2 s") as caught:
            await ingest.fetch(begin(ingest, stack))
        assert caught.value.field == "header.source"
        assert "adapters.source_timeout_s" in caught.value.remedy


async def test_fetches_that_hang_keep_their_places_and_leave_the_rest_alone(
    make_ingest: MakeIngest, make_files: MakeFiles
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    memory = fsspec.filesystem("memory")
    for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), make_files(), strict=True):
        memory.pipe_file(f"/ingest/{name}", data)
    with ExitStack() as stack:
        with hanging_server() as server:
            ingest = make_ingest(server)
            waiting = [asyncio.create_task(ingest.fetch(begin(ingest, stack))) for _ in range(PLACES)]
            for _ in waiting:
                # The only thread of the default pool is free for this.
                assert await asyncio.to_thread(server.accepted.acquire, timeout=30)
            for task in waiting:
                task.cancel()
            assert {type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)} == {
                asyncio.CancelledError
            }
            assert len(fetches()) == PLACES
            for _ in range(2):
                with call_scope(CallContext.begin(timeout_s=0.2)), pytest.raises(LimitExceeded) as caught:
                    await ingest.fetch(begin(ingest, stack, "memory://ingest"))
                assert caught.value.field == "header.source"
                assert caught.value.remedy
            assert len(fetches()) == PLACES
        upload = begin(ingest, stack, "memory://ingest")
        await ingest.fetch(upload)
        record, is_created = await ingest.stage(upload)
        assert (is_created, record.source) == (True, "memory://ingest")


async def test_the_deadline_of_the_caller_is_kept(make_ingest: MakeIngest) -> None:
    with hanging_server() as server, ExitStack() as stack:
        ingest = make_ingest(server)
        call = CallContext.begin(timeout_s=0.5)
        with call_scope(call), pytest.raises(Unavailable) as caught:
            await ingest.fetch(begin(ingest, stack))
        assert caught.value.field == "header.source"


async def test_a_rollback_counts_as_an_upload(tmp_path: Path, base: BaseShapes, make_files: MakeFiles) -> None:
    quota = QuotaSettings(max_adapters=1, uploads_per_minute=3)
    settings = Settings(data_dir=tmp_path, adapters=AdapterSettings(quota=quota))
    server = GrpcServer(AdaptersService(settings, base), ServerSettings(grace_s=0.5))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        for seed in (1, 2):
            header = put_request(header=records_pb2.UploadHeader(adapter="math", samples=["1 + 1"]))
            chunks = [
                put_request(chunk=records_pb2.FileChunk(file=name, data=data))
                for name, data in zip(
                    ("adapter_config.json", "adapter_model.safetensors"), make_files(seed), strict=True
                )
            ]
            staged = await stub.Put(iter([header, *chunks]))
            await stub.Publish(pb.PublishRequest(adapter=staged.record.adapter))
        assert (await stub.Restage(pb.RestageRequest(adapter="math@1"))).created
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Restage(pb.RestageRequest(adapter="math@2"))
        error = from_rpc_error(caught.value)
        assert isinstance(error, LimitExceeded)
        assert error.field == "quota.uploads_per_minute"
    await server.stop()
