"""A real Milvus server that hangs, dies and comes back under a serving gateway."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from ramole.core.errors import DeadlineExceeded, Unavailable
from ramole.lab.milvus_server import MilvusServer
from support.index_world import LiveWorld

TIMEOUT_S = 4.0
"""Of each call to the server; what a client waits for is a few of these."""


@pytest.fixture
def own_milvus(start_milvus: Callable[..., MilvusServer], request: pytest.FixtureRequest) -> Iterator[MilvusServer]:
    """A server of the test's own. It ends itself when it hung for longer than a session lives."""
    ttl_s = 300 if "hangs" in request.node.name else 5  # a restarted server waits until its former self counts as dead
    server = start_milvus(**{"proxy.timeTickInterval": 50, "common.session.ttl": ttl_s})
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
async def world(own_milvus: MilvusServer) -> AsyncIterator[LiveWorld]:
    made = LiveWorld(own_milvus.uri, num=5, timeout_s=TIMEOUT_S)
    await made.start_neighbours()
    await made.start_gateway()
    yield made
    await made.stop()


async def check_outage(world: LiveWorld) -> None:
    """Everything that needs no index works; everything else says so, soon, and changes nothing."""
    world.adapters.add("n2", 2)  # what a rollback to the first version would replace
    before = world.stored
    began = time.monotonic()
    named, second, fallen, revoked, *refused = await asyncio.wait_for(
        asyncio.gather(
            world.client.complete("go", adapters=["n3"]),
            world.client.complete("stay", adapters=["n1"]),
            world.client.complete("prompt n3", may_fall_back=True),
            world.client.revoke("n4"),
            world.client.route("prompt n3", k=1),
            world.client.complete("prompt n3"),
            world.client.delete("n0"),
            world.client.rollback("n2@1"),
            world.reindex(),
            return_exceptions=True,
        ),
        timeout=12 * TIMEOUT_S,
    )
    assert not isinstance(named, BaseException)
    assert not isinstance(second, BaseException)
    assert (named.text, second.text) == ("go", "stay")
    assert not isinstance(revoked, BaseException), revoked
    assert revoked.aborted
    async with asyncio.timeout(12 * TIMEOUT_S):  # what a call has begun is undone, also after its deadline has ended it
        while world.stored != before - {"n4@1"}:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.1)
    for each in refused:
        assert isinstance(each, Unavailable | DeadlineExceeded), each
        assert each.remedy
    assert not isinstance(fallen, BaseException), fallen
    assert fallen.routing.has_fallen_back
    assert fallen.routing.adapters == ()
    assert fallen.text == "promptn3"
    assert time.monotonic() - began < 12 * TIMEOUT_S


async def recovered(world: LiveWorld, limit_s: float) -> str:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return await world.find(3)
        except (Unavailable, ValueError):  # or nothing is found yet
            assert time.monotonic() < deadline, "retrieval did not recover"
            await asyncio.sleep(0.2)


async def test_a_server_that_hangs_is_an_outage_until_it_goes_on(world: LiveWorld, own_milvus: MilvusServer) -> None:
    assert await world.find(3) == "n3"
    own_milvus.signal(signal.SIGSTOP)
    try:
        await check_outage(world)
    finally:
        own_milvus.signal(signal.SIGCONT)
    assert await recovered(world, 60) == "n3"


async def test_a_server_that_was_killed_is_an_outage_until_it_is_back(
    world: LiveWorld, own_milvus: MilvusServer
) -> None:
    assert await world.find(3) == "n3"
    own_milvus.stop(signal.SIGKILL)
    await check_outage(world)
    late = LiveWorld(own_milvus.uri, num=5, timeout_s=TIMEOUT_S)  # a system that starts during the outage
    options = late.settings.gateway.model_copy(update={"index_patience_s": 0.5})
    late.settings = late.settings.model_copy(update={"gateway": options})
    await late.start_neighbours()
    await late.start_gateway()
    try:
        assert (await late.client.complete("go", adapters=["n3"])).text == "go"
        with pytest.raises(Unavailable, match="does not answer"):
            await late.find(3)
        await asyncio.to_thread(own_milvus.start)
        assert await recovered(world, 120) == "n3"
        assert await recovered(late, 60) == "n3"
    finally:
        await late.stop()
