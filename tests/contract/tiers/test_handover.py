"""From a real adapters service to an executor's weights: mapped on one machine, sent to another, kept on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import save

from ramole.adapters.servicer import CHUNK_BYTES, AdaptersService
from ramole.core.errors import Corrupt, NotFound, Unavailable
from ramole.core.settings import AdapterSettings, CacheSettings, ServerSettings, Settings
from ramole.executor.source import AdapterSource
from ramole.lora.base import BaseShapes
from ramole.lora.files import TENSORS_FILE
from ramole.lora.reader import read_adapter
from ramole.observability.tiers import TierMetrics
from ramole.tiers.disk import DiskTier
from ramole.tiers.machine import machine_id
from ramole.transport import stubs
from ramole.transport.channels import Channels
from ramole.transport.picker import StaticPicker
from ramole.transport.server import GrpcServer
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc
from ramole.v1.records_pb2 import FileChunk, UploadHeader
from support.uploads import put_request

BASE = BaseShapes("tiny", {"m.q": (512, 300)})
NEAR, FAR = machine_id(), "another machine"


def make_files() -> tuple[bytes, bytes]:
    """More than one chunk of weights."""
    g = torch.Generator().manual_seed(0)
    name = "base_model.model.m.q.lora_{}.weight"
    tensors = {
        name.format("A"): torch.randn(600, 512, generator=g),
        name.format("B"): torch.randn(300, 600, generator=g),
    }
    config = {
        "peft_type": "LORA", "r": 600, "lora_alpha": 4, "base_model_name_or_path": "tiny", "target_modules": ["m.q"]
    }  # fmt: skip
    return json.dumps(config).encode(), save(tensors)


class Peer:
    """The real stub of the store's peers; remembers what came over the wire."""

    def __init__(self, address: str, channels: Channels) -> None:
        self._stub = stubs.Remote(adapters_pb2_grpc.AdaptersStub, StaticPicker(address), channels).stub
        self.parts: list[pb.FetchResponse] = []
        self.is_contained = False
        self.loses_data = False
        self.has_begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def Fetch(
        self,
        request: pb.FetchRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # as gRPC's stubs
    ) -> AsyncGenerator[pb.FetchResponse]:
        async for part in self._stub.Fetch(request, timeout=timeout):
            self.parts.append(part)
            self.has_begun.set()
            await self.may_go_on.wait()
            if self.is_contained and part.folder:
                part.folder = f"/elsewhere{part.folder}"
            if not (self.loses_data and part.data):
                yield part

    @property
    def sent(self) -> int:
        return sum(len(part.data) for part in self.parts)


@dataclass
class House:
    """One adapters service with one adapter in it."""

    service: AdaptersService
    server: GrpcServer
    settings: Settings
    peer: Peer
    folder: Path
    digest: str = ""
    files: tuple[bytes, bytes] = field(default_factory=make_files)

    def source(self, machine: str, disk: DiskTier | None = None) -> AdapterSource:
        disk = disk or DiskTier(self.folder / "executor", 2**30)
        return AdapterSource(self.peer, disk, TierMetrics(CollectorRegistry()), machine=machine)

    async def check(self, source: AdapterSource) -> None:
        weights = await source.load(self.digest)
        want = read_adapter(*self.files)
        for name, pair in want.pairs.items():
            assert torch.equal(weights.pairs[name].a, pair.a)
            assert torch.equal(weights.pairs[name].b, pair.b)

    def stored(self) -> Path:
        return self.settings.data_dir / "store" / "objects" / self.digest[:2] / self.digest / TENSORS_FILE

    def metric(self, name: str, **labels: str) -> float | None:
        return self.service.registry.get_sample_value(name, labels)


@pytest.fixture(params=["local", "remote"])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    uri = "" if request.param == "local" else f"memory://{uuid4().hex}"
    settings = Settings(
        data_dir=tmp_path / "data",
        adapters=AdapterSettings(max_rank=1000, store_uri=uri),
        executor={"slot_rank": 1000},  # type: ignore[arg-type]
        cache=CacheSettings(negative_s=0.0),
    )
    service = AdaptersService(settings, BASE)
    server = GrpcServer(service, ServerSettings(grace_s=0.5))
    await server.start()
    channels = Channels()
    house = House(service, server, settings, Peer(server.address, channels), tmp_path)
    head = UploadHeader(adapter="math", samples=["1 + 1"])
    names = ("adapter_config.json", TENSORS_FILE)
    chunks = [
        put_request(chunk=FileChunk(file=name, data=data[start : start + 2**20]))
        for name, data in zip(names, house.files, strict=True)
        for start in range(0, len(data), 2**20)
    ]
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        put = await stub.Put(iter([put_request(header=head), *chunks]))
        await stub.Publish(pb.PublishRequest(adapter=put.record.adapter))
        house.digest = put.record.adapter.digest
        yield house
    await channels.close()
    await server.stop()


async def test_one_machine_maps_and_sends_nothing(house: House) -> None:
    await house.check(house.source(NEAR))
    assert house.peer.sent == 0
    assert not list((house.folder / "executor").rglob(TENSORS_FILE))
    await house.check(house.source(NEAR))
    # A remote store is asked once; then the file lies in the disk tier of the service.
    is_remote = bool(house.settings.adapters.store_uri)
    assert house.metric("ramole_tier_requests_total", tier="store", result="hit") == (1 if is_remote else 2)
    assert house.metric("ramole_tier_requests_total", tier="store", result="miss") == 0
    assert house.metric("ramole_tier_evictions_total", tier="store") == 0
    assert house.metric("ramole_tier_bytes", tier="store") is None  # nobody counts them
    assert house.metric("ramole_tier_bytes", tier="disk") is not None


async def test_another_machine_gets_chunks_and_keeps_them_over_a_restart(house: House) -> None:
    await house.check(house.source(FAR))
    assert house.peer.sent == len(house.files[1])
    assert max(len(part.data) for part in house.peer.parts) <= CHUNK_BYTES
    assert sum(1 for part in house.peer.parts if part.data) > 1
    await house.server.stop()
    await house.check(house.source(FAR))
    other = house.source(FAR, DiskTier(house.folder / "empty", 2**30))
    with pytest.raises(Unavailable):
        await other.load(house.digest)


async def test_a_corrupt_cached_file_is_fetched_again(house: House) -> None:
    await house.check(house.source(FAR))
    [file] = (house.folder / "executor").rglob(TENSORS_FILE)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    await house.check(house.source(FAR))
    assert house.peer.sent == 2 * len(house.files[1])
    assert file.read_bytes() == house.files[1]


async def test_a_full_disk_is_no_obstacle(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    blocked = DiskTier(tmp_path / "file" / "below", 2**30)
    await house.check(house.source(FAR, blocked))
    await house.check(house.source(FAR, blocked))
    assert blocked.counts.failures == 2


def break_store(house: House, how: Callable[[bytes], bytes | None]) -> None:
    """Damages the stored tensors, wherever the store keeps them."""
    if not house.settings.adapters.store_uri:
        data = how(house.stored().read_bytes())
        house.stored().unlink()
        if data is not None:
            house.stored().write_bytes(data)
        return
    import fsspec

    fs = fsspec.filesystem("memory")
    paths = fs.find(house.settings.adapters.store_uri)
    [path] = [path for path in paths if house.digest in path and path.endswith(TENSORS_FILE)]
    data = how(fs.cat_file(path))
    fs.rm_file(path)
    if data is not None:
        fs.pipe_file(path, data)


@pytest.mark.parametrize("machine", [NEAR, FAR])
@pytest.mark.parametrize("how", [lambda data: None, lambda data: data[:-1] + b"\x00"])
async def test_a_lost_or_broken_object_is_a_clear_error(
    house: House, machine: str, how: Callable[[bytes], bytes | None]
) -> None:
    break_store(house, how)
    with pytest.raises(Corrupt) as caught:
        await house.source(machine).load(house.digest)
    assert caught.value.field == "digest"
    assert "restore the store" in caught.value.remedy
    assert not list((house.folder / "executor").rglob(TENSORS_FILE))
    assert (house.metric("ramole_tier_requests_total", tier="store", result="miss") or 0) >= 1
    assert (house.metric("ramole_tier_failures_total", tier="store") or 0) >= 1


async def test_a_deleted_adapter_leaves_every_disk(house: House) -> None:
    await house.check(house.source(FAR))
    await house.check(house.source(NEAR))
    async with grpc.aio.insecure_channel(house.server.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        await stub.DeleteStored(pb.DeleteStoredRequest(adapter="math"))
    assert not list(house.settings.data_dir.rglob(TENSORS_FILE))
    with pytest.raises(NotFound):
        await house.source(FAR, DiskTier(house.folder / "empty", 2**30)).load(house.digest)


@pytest.mark.parametrize("is_asked_again", [False, True])
async def test_a_fetch_that_a_drop_overtakes_leaves_no_files(house: House, is_asked_again: bool) -> None:
    disk = DiskTier(house.folder / "executor", 2**30)
    source = house.source(FAR, disk)
    house.peer.may_go_on.clear()
    before = asyncio.create_task(house.check(source))
    await house.peer.has_begun.wait()
    await source.drop(house.digest)
    after = asyncio.create_task(house.check(source)) if is_asked_again else None
    house.peer.may_go_on.set()
    await before  # who waits for it gets it
    if after is None:
        assert disk.path(house.digest) is None
    else:
        await after
        assert disk.path(house.digest) is not None


async def test_files_that_do_not_arrive_whole_are_a_clear_error(house: House) -> None:
    house.peer.loses_data = True
    with pytest.raises(Corrupt) as caught:
        await house.source(FAR).load(house.digest)
    assert caught.value.field == "digest"
    assert caught.value.remedy
    assert not list((house.folder / "executor").rglob(TENSORS_FILE))


async def test_a_path_that_leads_nowhere_is_no_obstacle(house: House) -> None:
    """As between containers: the machine is the same, its files are not."""
    house.peer.is_contained = True
    await house.check(house.source(NEAR))
    assert house.peer.sent == len(house.files[1])
