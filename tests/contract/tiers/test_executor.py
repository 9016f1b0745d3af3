"""A real executor beside a real adapters service: which tier answers, and what is left after an eviction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.transport.peers import Peers
from ramole.transport.picker import StaticPicker
from ramole.transport.server import GrpcServer
from ramole.transport.values import composition_to_pb, sampling_to_pb
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import adapters_pb2_grpc, executor_pb2, executor_pb2_grpc
from ramole.v1.records_pb2 import FileChunk, UploadHeader
from ramole.zoo.catalog import load_zoo
from support.uploads import put_request


@dataclass
class House:
    """The zoo's base with one usable slot, and two of its adapters in the store."""

    executor: ExecutorService
    stub: executor_pb2_grpc.ExecutorAsyncStub
    digests: list[str]
    data_dir: Path
    adapters: adapters_pb2_grpc.AdaptersAsyncStub
    names: list[str]

    def metric(self, name: str, tier: str, **labels: str) -> float:
        value = self.executor.registry.get_sample_value(f"ramole_tier_{name}", {"tier": tier, **labels})
        return 0.0 if value is None else value

    async def ask(self, digest: str, *next_digests: str) -> None:
        request = executor_pb2.ExecuteRequest(
            prompt="translate to french : dog",
            experts=[executor_pb2.Expert(digest=digest, similarity=1.0, weight=1.0, scale=1.0)],
            composition=composition_to_pb(PRESETS["selection"]),
            sampling=sampling_to_pb(Sampling(max_tokens=2)),
            next_digests=next_digests,
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
    peers = Peers(lambda _: StaticPicker(store.address))
    executor = ExecutorService(settings, peers)
    server = GrpcServer(executor, ServerSettings(grace_s=0.5))
    await server.start()
    digests, names = [], []
    async with grpc.aio.insecure_channel(store.address) as channel:
        stub = adapters_pb2_grpc.AdaptersStub(channel)
        for adapter in load_zoo().adapters[:2]:
            parts = [put_request(header=UploadHeader(adapter=adapter.name, samples=["a dog"]))]
            for name in (CONFIG_FILE, TENSORS_FILE):
                data = (adapter.path / name).read_bytes()
                parts.append(put_request(chunk=FileChunk(file=name, data=data)))
            put = await stub.Put(iter(parts))
            await stub.Publish(pb.PublishRequest(adapter=put.record.adapter))
            digests.append(put.record.adapter.digest)
            names.append(adapter.name)
        async with grpc.aio.insecure_channel(server.address) as to_executor:
            yield House(executor, executor_pb2_grpc.ExecutorStub(to_executor), digests, tmp_path, stub, names)
    await server.stop()
    await peers.close()
    await store.stop()


async def test_who_may_come_next_is_brought_into_host_memory(house: House) -> None:
    one, two = house.digests
    await house.ask(one, two)
    async with asyncio.timeout(30):
        while two not in house.executor._host:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    assert house.metric("entries", "device") == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await house.ask(one, "no digest")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_each_tier_answers_before_the_one_behind_it_and_an_eviction_frees_all(house: House) -> None:
    one, two = house.digests
    for digest in (one, one, two, one, two):
        await house.ask(digest)
    # Two adapters through one slot: the device misses, host memory does not.
    assert house.metric("requests_total", "device", result="hit") == 1
    assert house.metric("requests_total", "device", result="miss") == 4
    assert house.metric("evictions_total", "device") == 3
    assert house.metric("load_duration_seconds_count", "store") == 2
    assert house.metric("entries", "host") == 2
    assert house.metric("bytes", "host") > 10_000
    assert house.metric("load_duration_seconds_count", "device") == 4
    assert house.metric("load_duration_seconds_count", "host") == 0

    weights = [house.executor._host.get(digest).result() for digest in (one, two)]
    assert house.metric("bytes", "host") == sum(each.num_bytes for each in weights)
    assert house.metric("bytes", "device") == weights[1].num_bytes
    await house.stub.Evict(executor_pb2.EvictRequest(digests=[one, two]))
    assert (house.metric("entries", "host"), house.metric("bytes", "host")) == (0, 0)
    assert (house.metric("entries", "device"), house.metric("bytes", "device")) == (0, 0)
    assert house.executor._engine is not None
    modules = house.executor._engine._runner.mixture.modules.values()
    assert not any(module.ranks.any() for module in modules)
    assert not list((house.data_dir / "cache").rglob(TENSORS_FILE))

    await house.ask(one)  # the store still has it
    assert house.metric("load_duration_seconds_count", "store") == 3


async def test_an_adapter_is_on_its_way_before_the_engine_has_seen_its_request(house: House) -> None:
    executor, [digest, _] = house.executor, house.digests
    async with busy_engine(executor):
        request = asyncio.create_task(house.ask(digest))
        await until(lambda: digest in executor._host)
        assert not request.done()
    await request


async def test_a_request_right_behind_a_revocation_finds_the_adapter_nowhere(house: House) -> None:
    executor, [digest, _], [name, _] = house.executor, house.digests, house.names
    await house.ask(digest)
    assert digest in executor._host
    await house.adapters.DeleteStored(pb.DeleteStoredRequest(adapter=name, is_revocation=True))
    async with busy_engine(executor) as wait_for_callers:
        eviction = asyncio.ensure_future(house.stub.Evict(executor_pb2.EvictRequest(digests=[digest], abort=True)))
        await wait_for_callers(1)
        request = asyncio.create_task(house.ask(digest))
        await wait_for_callers(2)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await request
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await eviction).aborted == 0
    assert digest not in executor._host
    assert house.metric("entries", "device") == 0


async def test_requests_in_the_queue_outlive_a_deletion_of_their_adapter(house: House) -> None:
    executor, [digest, other], [name, _] = house.executor, house.digests, house.names
    await house.ask(digest)
    await house.ask(other)  # has the only slot
    async with busy_engine(executor) as wait_for_callers:
        # The loads of four begin on arrival: the last one has none, and only host memory has its adapter.
        requests = [asyncio.create_task(house.ask(other)) for _ in range(5)]
        await wait_for_callers(5)
        requests += [asyncio.create_task(house.ask(digest))]
        await wait_for_callers(6)
        await house.adapters.DeleteStored(pb.DeleteStoredRequest(adapter=name))
        eviction = asyncio.ensure_future(house.stub.Evict(executor_pb2.EvictRequest(digests=[digest])))
        await wait_for_callers(7)
    await asyncio.gather(*requests, eviction)
    await until(lambda: house.metric("entries", "device") == 0)
    assert digest not in executor._host
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await house.ask(digest)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


@asynccontextmanager
async def busy_engine(executor: ExecutorService) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Nothing that comes runs before the end, and then in its order. Yields what waits until so many have come."""
    worker = executor._worker
    assert worker is not None
    has_begun, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block(engine: object) -> None:
        loop.call_soon_threadsafe(has_begun.set)
        gate.wait(60)

    async def wait_for_callers(count: int) -> None:
        await until(lambda: worker.num_callers >= 1 + count)

    busy = asyncio.create_task(worker.ask(block))
    await has_begun.wait()
    try:
        yield wait_for_callers
    finally:
        gate.set()
    await busy


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_true():  # noqa: ASYNC110 - neither a tier nor a worker tells that it has changed
            await asyncio.sleep(0.01)
