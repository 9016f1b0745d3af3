"""A real server whose KV memory is too small for all that run: answers are the same, and the metrics tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ramole.client.values import Completion
from ramole.core.errors import InvalidInput
from ramole.core.sampling import Sampling
from support.engine_door import EngineDoor, counted_workers

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = 100
PROMPT = "a prompt of more than two blocks, n3"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineDoor]:
    folder = tmp_path_factory.mktemp("door")
    door = EngineDoor(folder, num_slots=5, max_rows=6, token_budget=64, max_len=400, kv_blocks=12)
    with pytest.MonkeyPatch.context() as patch:
        counted_workers(patch)
        try:
            await door.start("a", "b")
            yield door
        finally:
            await door.stop()


async def ask(door: EngineDoor, number: int) -> Completion:
    sampling = Sampling(max_tokens=NEW, temperature=0.7 if number % 2 else 0.0, seed=number, logprobs=True)
    return await door.client.complete(PROMPT, adapters=["ab"[number % 2]], sampling=sampling)


def told(door: EngineDoor, name: str, **labels: str) -> float:
    value = door.tiny.registry.get_sample_value(f"ramole_{name}", labels)
    assert value is not None, name
    return value


async def test_answers_are_the_same_while_memory_goes_from_one_to_another(door: EngineDoor) -> None:
    alone = [await ask(door, number) for number in range(6)]
    assert told(door, "preemptions_total") == 0
    together = await asyncio.gather(*(ask(door, number) for number in range(6)))
    assert told(door, "preemptions_total") > 0
    for one, other in zip(alone, together, strict=True):
        assert other.token_ids == one.token_ids
        assert other.usage.completion_tokens == one.usage.completion_tokens
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
        assert [adapter.mean_weight for adapter in other.usage.adapters] == pytest.approx([1.0])
    assert not any((await door.held()).values())
    assert told(door, "kv_blocks") == 12
    assert told(door, "kv_usage_ratio") == 0


async def test_a_prompt_that_came_before_is_not_computed_again(door: EngineDoor) -> None:
    await ask(door, 0)
    asked, reused = (told(door, "prefix_tokens_total", kind=kind) for kind in ("asked", "reused"))
    await ask(door, 0)
    assert told(door, "prefix_tokens_total", kind="asked") - asked == len(PROMPT)
    assert told(door, "prefix_tokens_total", kind="reused") - reused == 32


async def test_what_no_memory_is_enough_for_is_refused_with_the_setting(door: EngineDoor) -> None:
    with pytest.raises(InvalidInput) as refused:
        await door.client.complete(PROMPT, adapters=["a"], sampling=Sampling(max_tokens=300))
    assert refused.value.field == "sampling.max_tokens"
    assert "executor.kv_blocks" in refused.value.remedy
    assert (await door.client.describe()).limits.max_len == 12 * 16
