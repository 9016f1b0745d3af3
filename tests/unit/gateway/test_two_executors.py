"""What an order meets when an executor fails under it: one other executor, and no third."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from ramole.core.composition import PRESETS, Reroute
from ramole.core.errors import ExpertUnavailable, Internal, NotFound, Unavailable
from ramole.core.sampling import Sampling
from ramole.core.settings import ServerSettings, TenantLimitSettings
from ramole.gateway.answers import AnswerFlow
from ramole.gateway.backends import Backends
from ramole.gateway.metrics import GatewayMetrics
from ramole.gateway.routing import AdapterChooser
from ramole.gateway.tenant_limits import TenantLimits
from ramole.gateway.values import Order
from ramole.observability.specs import TenantNames
from ramole.transport.peers import Peers
from ramole.transport.picker import StaticPicker
from ramole.transport.server import GrpcServer
from ramole.v1.common_pb2 import TokenChunk
from ramole.v1.executor_pb2 import GetStatusRequest, GetStatusResponse
from ramole.v1.executor_pb2_grpc import ExecutorStub
from support.gateway_world import BASE, TRUST, Executor, World

NO_LIMITS = TenantLimits(TenantLimitSettings(), {})

ORDER = Order("one two", (), PRESETS["mixture"], Sampling())
STOPPED = "the engine stopped"


class FirstThatIsNotAvoided:
    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        yield next(address for address in self._addresses if address != avoid)

    async def everyone(self) -> Sequence[str]:
        return self._addresses


class Two:
    """A generation before two executors, of which the first is preferred."""

    def __init__(self, generation: AnswerFlow, backends: Backends, first: Executor, second: Executor) -> None:
        self._generation = generation
        self._backends = backends
        self.first = first
        self.second = second

    async def answer(self, order: Order = ORDER) -> str:
        async with aclosing(self._generation.run(order)) as events:
            return "".join([event.text async for event in events if isinstance(event, TokenChunk)])

    async def statuses(self) -> list[GetStatusResponse]:
        """Of those that answer."""
        return await self._backends.executor.whoever_answers(
            lambda channel: ExecutorStub(channel).GetStatus, GetStatusRequest()
        )


@pytest.fixture
async def two(world: World) -> AsyncIterator[Two]:
    second = Executor([])
    server = GrpcServer(second, ServerSettings(), identify=TRUST.identify)
    await server.start()
    executors = FirstThatIsNotAvoided(world.servers["executor"].address, server.address)
    peers = Peers(lambda name: executors if name == "executor" else StaticPicker(world.servers[name].address), TRUST)
    backends = Backends(peers, base_id=BASE)
    generation = AnswerFlow(
        backends,
        AdapterChooser(backends, base_id=BASE, timeout_s=10.0),
        TenantLimits(TenantLimitSettings(), {}),
        GatewayMetrics(CollectorRegistry(), TenantNames(())),
    )
    yield Two(generation, backends, world.executor, second)
    await peers.close()
    await server.stop()


async def test_the_other_one_answers(two: Two) -> None:
    two.first.failures["Execute"] = [Unavailable(STOPPED)]
    assert await two.answer() == "onetwo"
    assert (len(two.first.requests), len(two.second.requests)) == (1, 1)


async def test_both_fail_and_nobody_is_asked_again(two: Two) -> None:
    two.first.failures["Execute"] = [Unavailable(STOPPED)]
    two.second.failures["Execute"] = [Unavailable(STOPPED)]
    with pytest.raises(Unavailable, match=STOPPED) as caught:
        await two.answer()
    assert (len(two.first.requests), len(two.second.requests)) == (1, 1)
    assert caught.value.retry_after_s is None


async def test_routing_once_more_gives_no_further_try(two: Two) -> None:
    two.first.failures["Execute"] = [Unavailable(STOPPED), Unavailable(STOPPED)]
    two.second.failures["Execute"] = [ExpertUnavailable.of(NotFound("gone"), 0)]
    with pytest.raises(Unavailable, match=STOPPED):
        await two.answer()
    assert (len(two.first.requests), len(two.second.requests)) == (2, 1)


async def test_a_token_that_was_delivered_ends_all_tries(two: Two) -> None:
    two.first.failures["step"] = [Unavailable(STOPPED)]
    with pytest.raises(Unavailable, match=STOPPED):
        await two.answer()
    assert not two.second.requests


async def test_the_orders_own_fault_stays_with_one(two: Two) -> None:
    two.first.failures["Execute"] = [Internal("the step failed")]
    with pytest.raises(Internal) as caught:
        await two.answer()
    assert not two.second.requests
    assert caught.value.retry_after_s is None


async def test_a_description_does_without_the_one_that_fails(two: Two) -> None:
    assert len(await two.statuses()) == 2
    two.first.failures["GetStatus"] = [Unavailable(STOPPED)]
    assert len(await two.statuses()) == 1
    for executor in (two.first, two.second):
        executor.failures["GetStatus"] = [Unavailable(STOPPED)]
    with pytest.raises(Unavailable, match=STOPPED):
        await two.statuses()


async def test_one_that_is_lost_between_two_parts_costs_nothing_but_a_prefill(two: Two) -> None:
    composition = replace(PRESETS["selection"], reroute=Reroute.AT, separators=(";",))
    order = Order("one; two", (), composition, Sampling())
    whole = await two.answer(order)
    assert (len(two.first.requests), len(two.second.requests)) == (2, 0)
    execute = two.first.begin

    async def gone_after_the_first_part(method: str, **more: bool) -> None:
        if method == "Execute" and two.first.requests[-1].answer_token_ids:
            raise Unavailable(STOPPED)
        await execute(method, **more)

    two.first.begin = gone_after_the_first_part  # type: ignore[method-assign]
    assert await two.answer(order) == whole
    [resumed] = two.second.requests
    assert list(resumed.answer_token_ids) == [0]
