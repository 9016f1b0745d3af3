"""Who was slow is said by name."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from ramole.core.call import CallContext, call_scope
from ramole.core.composition import PRESETS
from ramole.core.errors import DeadlineExceeded, Unavailable
from ramole.core.names import AdapterName
from ramole.core.sampling import Sampling
from ramole.core.settings import TenantLimitSettings
from ramole.gateway.answers import AnswerFlow
from ramole.gateway.backends import Backends
from ramole.gateway.metrics import GatewayMetrics
from ramole.gateway.routing import AdapterChooser
from ramole.gateway.stages import Stages
from ramole.gateway.tenant_limits import TenantLimits
from ramole.gateway.values import NamedAdapter, Order
from ramole.observability.specs import TenantNames
from ramole.v1.common_pb2 import TokenChunk
from support.gateway_world import BASE, World

NO_LIMITS = TenantLimits(TenantLimitSettings(), {})

ORDER = Order("one two", (), composition=PRESETS["mixture"], sampling=Sampling())
NAMED = replace(ORDER, named=(NamedAdapter(AdapterName("default", "a")),))


def test_stages_add_up_and_name_the_slowest() -> None:
    now = [0.0]
    stages = Stages(lambda: now[0])
    for part, seconds in (("embedding", 4.0), ("retrieval", 1.0), ("embedding", 5.8), ("", 100.0), ("retrieval", 0.2)):
        stages.enter(part)
        now[0] += seconds
    assert stages.slowest == "embedding"
    assert str(stages) == "embedding 9.80 s, retrieval 1.20 s without an answer"


def flow(world: World, timeout_s: float = 20.0) -> AnswerFlow:
    backends = Backends(world.peers(), base_id=BASE)
    return AnswerFlow(
        backends,
        AdapterChooser(backends, base_id=BASE, timeout_s=timeout_s),
        TenantLimits(TenantLimitSettings(), {}),
        GatewayMetrics(CollectorRegistry(), TenantNames(())),
    )


async def run(answers: AnswerFlow, order: Order) -> None:
    async with aclosing(answers.run(order)) as events:
        async for event in events:
            if isinstance(event, TokenChunk):
                break


async def test_a_search_that_had_no_time_left_is_not_blamed(world: World) -> None:
    world.embedding.delays_s["Embed"] = 0.9
    world.retrieval.gates["Search"] = asyncio.Event()
    with call_scope(CallContext.begin(timeout_s=1.0)), pytest.raises(DeadlineExceeded) as caught:
        await run(flow(world), ORDER)
    assert "embedding was slow (embedding 0.9" in caught.value.message
    assert "retrieval 0." in caught.value.message
    assert caught.value.message.endswith("s without an answer)")


@pytest.mark.parametrize(
    ("method", "order", "part"),
    [
        ("Embed", ORDER, "embedding"),
        ("Search", ORDER, "retrieval"),
        ("Execute", ORDER, "executor"),
        ("GetStored", NAMED, "adapters"),
        ("Execute", NAMED, "executor"),
    ],
)
async def test_the_part_that_hangs_is_named(world: World, method: str, order: Order, part: str) -> None:
    neighbours = {"Embed": world.embedding, "Search": world.retrieval, "Execute": world.executor}
    neighbours.get(method, world.adapters).gates[method] = asyncio.Event()
    with call_scope(CallContext.begin(timeout_s=0.5)), pytest.raises(DeadlineExceeded) as caught:
        await run(flow(world), order)
    assert f": {part} was slow (" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(("method", "part"), [("Embed", "embedding"), ("Search", "retrieval")])
async def test_retrieval_has_a_limit_of_its_own_and_says_who_broke_it(world: World, method: str, part: str) -> None:
    (world.embedding if method == "Embed" else world.retrieval).gates[method] = asyncio.Event()
    with pytest.raises(Unavailable, match=f"^{part} was slow") as caught:
        await run(flow(world, timeout_s=0.3), ORDER)
    assert caught.value.retry_after_s
