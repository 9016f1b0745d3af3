"""Load on a running system: what it counts is what came."""

from __future__ import annotations

import pytest

from ramole.core.errors import InvalidInput
from ramole.core.settings import TenantLimitSettings
from ramole.lab.bench.load import LoadOptions, run_load
from support.front_door import front_door

PROMPTS = ("a b c", "d e")


@pytest.mark.parametrize("rate", [0.0, 40.0], ids=["closed", "open"])
async def test_answers_tokens_and_latencies_are_counted(rate: float) -> None:
    async with front_door() as door:
        options = LoadOptions(PROMPTS, ("one", "two"), concurrency=2, rate=rate, seconds=1.0)
        result = await run_load(door.client, options, progress=lambda _: None)
        summary = result["summary"]
        assert result["codes"] == {"OK": len(door.executor.requests)}
        assert summary["failed"] == 0
        assert min(summary["requests_per_s"], summary["tokens_per_s"], summary["first_token_ms_p50"]) > 0
        assert summary["answer_ms_p50"] <= summary["answer_ms_p95"] <= summary["answer_ms_p99"]
        assert result["options"]["prompts"] == 2


async def test_refusals_are_told_and_not_repeated() -> None:
    async with front_door(limits=TenantLimitSettings(requests_per_minute=3)) as door:
        options = LoadOptions(PROMPTS, ("one",), concurrency=1, seconds=0.5)
        result = await run_load(door.client, options, progress=lambda _: None)
        assert result["codes"]["OK"] == 3
        assert result["codes"].keys() == {"OK", "LIMIT_EXCEEDED"}
        assert result["summary"]["failed"] == result["codes"]["LIMIT_EXCEEDED"]


def test_there_are_prompts() -> None:
    with pytest.raises(InvalidInput, match="prompts"):
        LoadOptions(())
