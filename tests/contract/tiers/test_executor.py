"""A real executor beside a real adapters service: which tier answers, and what is left after an eviction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ramole.adapters.servicer import AdaptersService
from ramole.app.resolution import resolve
from ramole.core.composition import PRESETS
from ramole.core.sampling import Sampling
from ramole.core.settings import CacheSettings, ExecutorSettings, ServerSettings, Settings
from ramole.executor.servicer import ExecutorService
from ramole.lora.config import CONFIG_FILE
from ramole.lora.header import TENSORS_FILE
from ramole.transport.peers import Addresses, Peers
from ramole.transport.picker import StaticPicker
from ramole.transport.server import GrpcServer
from ramole.transport.values import composition_to_pb, sampling_to_pb
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc, executor_pb2, executor_pb2_grpc
from ramole.zoo.catalog import load_zoo


@dataclass
class House:
    """The zoo's base with one usable slot, and two of its adapters in the store."""

    executor: ExecutorService
    stub: executor_pb2_grpc.ExecutorAsyncStub
    digests: list[str]
    data_dir: Path

    def metric(self, name: str, tier: str, **labels: str) -> float:
        value = self.executor.registry.get_sample_value(f"ramole_tier_{name}", {"tier": tier, **labels})
        return 0.0 if value is None else value

    async def ask(self, digest: str) -> None:
        request = executor_pb2.ExecuteRequest(
            prompt="translate to french : dog",
            experts=[executor_pb2.Expert(digest=digest, similarity=1.0, weight=1.0, scale=1.0)],
            composition=composition_to_pb(PRESETS["selection"]),
            sampling=sampling_to_pb(Sampling(max_tokens=2)),
        )
        events = [event async for event in self.stub.Execute(request)]
        assert events[-1].done.completion_tokens >= 1


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    settings = resolve(
        Settings(
            data_dir=tmp_path,
            executor=ExecutorSettings(num_slots=2, max_rows=2, max_len=64),
            cache=CacheSettings(dir=tmp_path / "cache"),
        )
    )
    adapters = AdaptersService(settings)
    store = GrpcServer(adapters, ServerSettings(grace_s=0.5))
    await store.start()
    peers = Peers(Addresses(*(StaticPicker(store.address) for _ in Addresses.rooms())))
    executor = ExecutorService(settings, peers)
    server = GrpcServer(executor, ServerSettings(grace_s=0.5))
    await server.start()
    digests = []
    async with grpc.aio.insecure_channel(store.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        for adapter in load_zoo().adapters[:2]:
            parts = [pb.UploadRequest(header=pb.UploadHeader(adapter=adapter.name, samples=["a dog"]))]
            for name in (CONFIG_FILE, TENSORS_FILE):
                data = (adapter.path / name).read_bytes()
                parts.append(pb.UploadRequest(chunk=pb.FileChunk(file=name, data=data)))
            put = await stub.Put(iter(parts))
            await stub.Publish(pb.PublishRequest(adapter=put.record.adapter))
            digests.append(put.record.adapter.digest)
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield House(executor, executor_pb2_grpc.ExecutorStub(channel), digests, tmp_path)
    await server.stop()
    await peers.close()
    await store.stop()


async def test_each_tier_answers_before_the_one_behind_it_and_an_eviction_frees_all(house: House) -> None:
    one, two = house.digests
    for digest in (one, one, two, one, two):
        await house.ask(digest)
    # Two adapters through one slot: the device misses, host memory does not.
    assert house.metric("requests_total", "device", result="hit") == 1
    assert house.metric("requests_total", "device", result="miss") == 4
    assert house.metric("evictions_total", "device") == 3
    assert house.metric("load_seconds_count", "store") == 2
    assert house.metric("entries", "host") == 2
    assert house.metric("bytes", "host") > 10_000

    weights = [house.executor._host.get(digest).result() for digest in (one, two)]
    assert house.metric("bytes", "host") == sum(each.num_bytes for each in weights)
    await house.stub.Evict(executor_pb2.EvictRequest(digests=[one, two]))
    assert (house.metric("entries", "host"), house.metric("bytes", "host")) == (0, 0)
    assert house.metric("entries", "device") == 0
    assert house.executor._engine is not None
    modules = house.executor._engine._runner.mixture.modules.values()
    assert not any(module.ranks.any() for module in modules)
    assert not list((house.data_dir / "cache").rglob(TENSORS_FILE))

    await house.ask(one)  # the store still has it
    assert house.metric("load_seconds_count", "store") == 3


async def test_an_adapter_is_on_its_way_before_the_engine_has_seen_its_request(house: House) -> None:
    executor, [digest, _] = house.executor, house.digests
    gate = threading.Event()
    assert executor._worker is not None
    busy = asyncio.create_task(executor._worker.ask(lambda engine: gate.wait(30)))
    request = asyncio.create_task(house.ask(digest))
    try:
        async with asyncio.timeout(20):
            while digest not in executor._host:  # noqa: ASYNC110 - a tier tells nobody that it has been filled
                await asyncio.sleep(0.01)
        assert not request.done()
    finally:
        gate.set()
    await asyncio.gather(busy, request)
