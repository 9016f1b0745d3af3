"""What the gateway counts of real calls, under which labels."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ramole.core.errors import (
    AdapterRefused,
    Corrupt,
    DeadlineExceeded,
    ExpertUnavailable,
    Internal,
    LimitExceeded,
    NotFound,
    RamoleError,
    Unavailable,
)
from ramole.gateway.backends import Backends
from ramole.gateway.metrics import GatewayMetrics, UpkeepMetrics
from ramole.gateway.upkeep import Upkeep
from ramole.observability.specs import OTHER, Stage, TenantNames
from ramole.transport.errors import code_of
from support.gateway_world import BASE, World


def value(world: World, name: str, **labels: str) -> float:
    found = world.servers["gateway"].registry.get_sample_value(f"ramole_{name}", labels)
    assert found is not None, f"{name} {labels}"
    return found


async def test_an_answer_is_counted_with_its_times_and_tokens(world: World) -> None:
    answer = await world.client.complete("one two three")
    assert value(world, "answers_total", tenant=OTHER, code="OK") == 1
    assert value(world, "answer_duration_seconds_count") == value(world, "time_to_first_token_seconds_count") == 1
    assert 0 < value(world, "time_to_first_token_seconds_sum") <= value(world, "answer_duration_seconds_sum")
    assert value(world, "tokens_total", tenant=OTHER, kind="prompt") == answer.usage.prompt_tokens
    assert value(world, "tokens_total", tenant=OTHER, kind="completion") == answer.usage.completion_tokens
    for stage in (Stage.EMBED, Stage.SEARCH, Stage.PICK):
        assert value(world, "stage_duration_seconds_count", stage=stage) == 1


async def test_a_request_that_names_its_adapters_was_not_retrieved(world: World) -> None:
    await world.client.complete("go", adapters=["a"])
    registry = world.servers["gateway"].registry
    assert registry.get_sample_value("ramole_stage_duration_seconds_count", {"stage": "embed"}) is None
    assert value(world, "stage_duration_seconds_count", stage=Stage.PICK) == 1


@pytest.mark.parametrize("error", [NotFound, LimitExceeded, DeadlineExceeded, Internal, Corrupt])
async def test_an_answer_that_fails_is_counted_by_its_code(world: World, error: type[RamoleError]) -> None:
    world.executor.failures["Execute"] = [error("no")]
    with pytest.raises(RamoleError):
        await world.client.complete("go")
    registry = world.servers["gateway"].registry
    code = code_of(error("no")).name
    assert registry.get_sample_value("ramole_answers_total", {"tenant": OTHER, "code": code}) == 1
    assert value(world, "answers_total", tenant=OTHER, code="OK") == 0
    assert value(world, "answer_duration_seconds_count") == 0


async def test_whoever_stops_reading_has_cancelled(world: World) -> None:
    async with aclosing(world.client.generate("one two three four")) as events:
        async for _ in events:
            break
    async with asyncio.timeout(20):
        while world.servers["gateway"].inflight:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    registry = world.servers["gateway"].registry
    ended = {
        sample.labels["code"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "ramole_answers_total" and sample.value
    }
    assert ended in ({"CANCELLED": 1}, {"OK": 1})  # the last piece may have been on its way


async def test_what_an_answer_does_without_is_counted_by_its_reason(world: World) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(Corrupt("bad"), 0)]
    await world.client.complete("go", adapters=["a", "b"], allow_degraded=True)
    assert value(world, "fallbacks_total", reason="CORRUPT") == 1
    world.embedding.failures["Embed"] = [Unavailable("down")] * 2
    await world.client.complete("go", allow_degraded=True)
    assert value(world, "fallbacks_total", reason="RETRIEVAL_DOWN") == 1


async def test_uploads_are_counted_and_refusals_by_their_reason(world: World, folder: Path) -> None:
    await world.client.upload(folder, ["sample"], adapter="fine")
    world.adapters.failures["Put"] = [AdapterRefused("no", field="chunk")]
    with pytest.raises(AdapterRefused):
        await world.client.upload(folder, ["sample"], adapter="bad")
    assert value(world, "uploads_total") == 1
    assert value(world, "upload_failures_total", reason="ADAPTER_REFUSED") == 1
    assert value(world, "upload_failures_total", reason="INTERNAL") == 0


def test_tenants_that_settings_name_are_told_apart() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry, TenantNames(["acme"]))
    for tenant in ("acme", "globex", "initech"):
        with pytest.raises(LimitExceeded), metrics.answer(tenant):
            raise LimitExceeded("used up")
    for tenant, times in (("acme", 1), (OTHER, 2)):
        labels = {"tenant": tenant, "code": "RESOURCE_EXHAUSTED"}
        assert registry.get_sample_value("ramole_answers_total", labels) == times


def test_a_defect_is_internal() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry, TenantNames(()))
    with pytest.raises(ZeroDivisionError), metrics.answer("x"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), metrics.upload():
        raise ZeroDivisionError
    assert registry.get_sample_value("ramole_answers_total", {"tenant": OTHER, "code": "INTERNAL"}) == 1
    assert registry.get_sample_value("ramole_upload_failures_total", {"reason": "INTERNAL"}) == 1


async def test_upkeep_tells_since_when_something_is_out_of_line(world: World) -> None:
    registry = CollectorRegistry()
    backends = Backends(world.peers(), base_id=BASE)
    upkeep = Upkeep(backends, patience_s=10, longest_retry_s=0.05)
    UpkeepMetrics(registry, upkeep)

    def now(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"ramole_{name}", labels) or 0.0

    assert now("reconcile_lag_seconds") == 0
    await upkeep.start()
    assert now("reconciles_total", result="ok") == 1
    assert now("reconcile_lag_seconds") == 0
    world.retrieval.rows.clear()
    world.retrieval.failures["ListRows"] = [Unavailable("down")] * 4
    upkeep.ask()
    assert now("reconcile_lag_seconds") > 0
    async with asyncio.timeout(20):
        while now("reconciles_total", result="ok") < 2:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    assert now("reconciles_total", result="failed") >= 1
    assert now("reconcile_repairs_total", kind="indexed") == 4
    assert now("reconcile_lag_seconds") == 0
    await upkeep.close()
