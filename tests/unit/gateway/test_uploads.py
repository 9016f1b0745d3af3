from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from ramole.core.call import CallContext, call_scope
from ramole.core.errors import AdapterRefused, DeadlineExceeded, NotFound, RamoleError, Unavailable
from ramole.core.names import AdapterName
from ramole.core.settings import Settings
from ramole.gateway.backends import Backends
from ramole.gateway.finisher import Finisher
from ramole.gateway.upkeep import Upkeep
from ramole.gateway.uploads import Uploads
from ramole.observability.logs import JsonLines
from ramole.v1 import adapters_pb2, gateway_pb2, records_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.gateway_world import BASE, World


async def upload(world: World, folder: Path, adapter: str = "mine") -> str:
    uploaded = await world.client.upload(folder, ["sample"], adapter=adapter)
    return str(uploaded.record.ref)


async def settled(world: World) -> None:
    """Until no call runs anywhere."""
    async with asyncio.timeout(20):
        while any(server.inflight for server in world.servers.values()):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


async def test_an_upload_is_stored_embedded_indexed_and_only_then_live(world: World, folder: Path) -> None:
    uploaded = await world.client.upload(folder, ["sample"])
    assert world.log == ["Put", "Embed", "Upsert", "Publish"]
    assert str(uploaded.record.ref) == "default/mine@1"
    assert uploaded.is_created
    assert "mine@1" in world.live & world.findable


async def test_a_new_version_takes_the_row_of_the_old_one(world: World, folder: Path) -> None:
    assert await upload(world, folder, "a") == "default/a@2"
    assert world.live >= {"a@1", "a@2"}
    assert {row for row in world.findable if row.startswith("a@")} == {"a@2"}


async def test_a_refused_upload_changes_nothing_and_says_why(world: World, folder: Path) -> None:
    world.adapters.failures["Put"] = [AdapterRefused("uses DoRA", field="use_dora", remedy="train without it")]
    before = world.stored, world.findable
    with pytest.raises(AdapterRefused) as caught:
        await upload(world, folder)
    assert (caught.value.message, caught.value.field) == ("uses DoRA", "use_dora")
    assert (world.stored, world.findable) == before


@pytest.mark.parametrize("adapter", ["mine", "a"])
@pytest.mark.parametrize("method", ["Embed", "Upsert", "Publish"])
async def test_a_failure_at_any_later_step_leaves_nothing_behind(
    world: World, folder: Path, method: str, adapter: str
) -> None:
    before = world.stored, world.findable
    neighbour = {"Embed": world.embedding, "Upsert": world.retrieval, "Publish": world.adapters}[method]
    neighbour.failures[method] = [Unavailable("down")] * 2  # the second one meets the retry
    with pytest.raises(Unavailable, match="down"):
        await upload(world, folder, adapter)
    assert (world.stored, world.findable) == before
    assert (await upload(world, folder, adapter)).startswith(f"default/{adapter}@")


async def test_a_thousand_half_open_uploads_leave_the_rest_alone(folder: Path) -> None:
    world = World()
    world.give("a")
    world.settings = Settings(base_model=BASE, base_id=BASE)  # as it comes
    await world.start_neighbours()
    await world.start_gateway()
    address = world.servers["gateway"].address
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        calls = []
        for i in range(1100):  # more than all calls that the gateway takes
            calls.append(GatewayStub(channel).UploadAdapter())
            header = records_pb2.UploadHeader(adapter=f"n{i}", samples=["x"])
            with suppress(grpc.aio.AioRpcError):  # refused already
                await calls[i].write(gateway_pb2.UploadAdapterRequest(header=header))
        async with asyncio.timeout(20):
            while sum(not call.done() for call in calls) > 64:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
        assert (await world.client.describe()).base_model == BASE
        assert (await world.client.complete("one two")).text == "onetwo"
        assert await upload(world, folder) == "default/mine@1"
        held = [call for call in calls if not call.done()]
        assert len(held) == 64, "half of the places of transfers, for one connection"
    await settled(world)
    assert world.live == {"a@1", "mine@1"}
    await world.stop()


async def test_one_outage_of_a_step_is_survived(world: World, folder: Path) -> None:
    world.retrieval.failures["Upsert"] = [Unavailable("restarting")]
    await upload(world, folder)
    assert "mine@1" in world.live & world.findable


async def test_a_publication_whose_answer_is_lost_stays_findable(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = world.adapters.begin

    async def begin_and_lose(method: str) -> None:
        await begin(method)
        if method == "Publish":
            world.adapters.staged.remove(("default", "mine", 1))
            raise RuntimeError("the answer is lost")

    monkeypatch.setattr(world.adapters, "begin", begin_and_lose)
    with pytest.raises(RamoleError):
        await upload(world, folder)
    assert "mine@1" in world.live & world.findable


async def test_a_client_that_leaves_while_sending_leaves_nothing_behind(world: World, folder: Path) -> None:
    from ramole.client.upload import upload_header, upload_messages
    from ramole.transport.caller import Caller
    from ramole.transport.channels import Channels
    from ramole.transport.picker import StaticPicker

    before = world.stored, world.findable
    channels = Channels()
    caller = Caller(StaticPicker(world.servers["gateway"].address), channels)
    is_half_sent = asyncio.Event()

    async def slow_messages():  # type: ignore[no-untyped-def]
        header = await upload_header(folder, adapter="mine", samples=["sample"])
        async for message in upload_messages(folder, header):
            yield message
            if message.HasField("chunk"):
                is_half_sent.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(caller.upload(lambda c: GatewayStub(c).UploadAdapter, slow_messages()))
    await is_half_sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(world)
    assert (world.stored, world.findable) == before
    assert "Put" not in world.log
    await channels.close()


@pytest.mark.parametrize("method", ["Embed", "Upsert", "Publish"])
async def test_a_client_that_leaves_later_has_uploaded_everything(world: World, folder: Path, method: str) -> None:
    neighbour = {"Embed": world.embedding, "Upsert": world.retrieval, "Publish": world.adapters}[method]
    gate = neighbour.gates[method] = asyncio.Event()
    task = asyncio.create_task(upload(world, folder))
    await neighbour.until(method)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await settled(world)
    await world.servers["gateway"].stop()  # waits for what has begun
    assert "mine@1" in world.live & world.findable


async def test_a_stopping_gateway_finishes_the_uploads_that_have_begun(world: World, folder: Path) -> None:
    gate = world.retrieval.gates["Upsert"] = asyncio.Event()
    task = asyncio.create_task(upload(world, folder))
    await world.retrieval.until("Upsert")
    stopping = asyncio.create_task(world.servers["gateway"].stop())
    gate.set()
    await stopping
    assert await task == "default/mine@1"
    assert "mine@1" in world.live & world.findable


async def test_work_that_outlives_its_call_logs_under_its_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(JsonLines())
    finisher, gate = Finisher(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        logging.getLogger("ramole.x").warning("late")

    with call_scope(CallContext.begin("r-1", timeout_s=0.01)):
        waiting = asyncio.create_task(finisher.finish(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    gate.set()
    await finisher.close()
    (line,) = [json.loads(line) for line in caplog.text.splitlines()]
    assert (line["message"], line["request_id"]) == ("late", "r-1")


async def test_undoing_has_a_time_of_its_own(world: World) -> None:
    world.retrieval.add(world.adapters.add("a", 2))
    backends = Backends(world.peers(), base_id="zoo/base")
    finisher = Finisher(budget_s=0.5)
    uploads = Uploads(backends, finisher, Upkeep(backends, patience_s=0))
    before = world.live, world.findable
    gate = world.retrieval.gates["Upsert"] = asyncio.Event()  # the index hangs for longer than the upload may take
    with pytest.raises(DeadlineExceeded):
        await uploads.roll_back_to(AdapterName("default", "a", 1), None)
    gate.set()
    await finisher.close()
    await settled(world)
    assert (world.live, world.findable) == before
    assert "a@3" not in world.stored


async def test_an_upload_whose_twin_fails_can_be_tried_again(world: World, folder: Path) -> None:
    world.adapters.failures["Publish"] = [NotFound("there is no mine@1")]
    put = world.adapters.put

    def put_before(name: AdapterName) -> adapters_pb2.PutResponse:
        return adapters_pb2.PutResponse(record=put(name).record, created=False)

    world.adapters.put = put_before  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="idempotency key"):
        await upload(world, folder)


async def test_a_roll_back_that_fails_hides_nothing_of_the_first_error(world: World, folder: Path) -> None:
    world.adapters.failures["Publish"] = [RuntimeError("disk full")]
    world.adapters.failures["Discard"] = [Unavailable("down")] * 2
    with pytest.raises(RamoleError, match="request id"):
        await upload(world, folder)
    assert "mine@1" not in world.findable
