"""Answers of the running system: the same in any batch, and those of PEFT for a named adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import torch

from ramole.client.client import RamoleClient
from ramole.client.values import Routing
from ramole.core.composition import PRESETS, Composition, Merge, Reroute, Weighting
from ramole.core.sampling import Sampling
from ramole.demo import DemoReport
from ramole.zoo.catalog import SEPARATOR, Zoo
from support.server_process import ServerProcess

SHORT = Sampling(max_tokens=24)


@pytest.fixture
async def client(system: ServerProcess, played: DemoReport) -> AsyncIterator[RamoleClient]:
    """Of the system with every adapter of the zoo in it."""
    async with RamoleClient(system.address) as client:
        yield client


async def tokens(client: RamoleClient, prompt: str, **options: object) -> list[int]:
    out: list[int] = []
    async for event in client.generate(prompt, sampling=SHORT, **options):  # type: ignore[arg-type]
        out += getattr(event, "token_ids", ())
    return out


async def tokens_and_doubt(
    client: RamoleClient, prompt: str, composition: Composition | None
) -> tuple[list[int], float | None]:
    out: list[int] = []
    doubt = None
    async for event in client.generate(prompt, sampling=SHORT, composition=composition):
        out += getattr(event, "token_ids", ())
        doubt = event.doubt if isinstance(event, Routing) else doubt
    return out, doubt


async def test_a_request_in_the_mixed_batch_gives_the_same_tokens_as_alone(client: RamoleClient, zoo: Zoo) -> None:
    compositions = [
        None,
        *PRESETS.values(),
        Composition(k=0),
        Composition(Weighting.SIMILARITY, Merge.PARAMETERS, k=8, tau=0.05),
    ]
    prompts = [example.prompt for adapter in zoo.adapters[::2] for example in adapter.prompts[2:4]]
    calls = [(prompt, compositions[i % len(compositions)]) for i, prompt in enumerate(prompts)]
    together: list[tuple[list[int], float | None]] = []
    alone: list[tuple[list[int], float | None]] = []

    def has_learned_meanwhile() -> bool:
        """The repository learns its doubt in the background, and that changes the default composition."""
        return [doubt for _, doubt in together] != [pytest.approx(doubt, abs=1e-3) for _, doubt in alone]

    for _ in range(2):  # nothing comes or goes any more: there is one thing to learn at most
        together = await asyncio.gather(*(tokens_and_doubt(client, p, c) for p, c in calls))
        alone = [await tokens_and_doubt(client, p, c) for p, c in calls]
        if not has_learned_meanwhile():
            break
    assert not has_learned_meanwhile()
    assert [out for out, _ in together] == [out for out, _ in alone]
    assert (await client.describe()).fullest_step.digests


async def test_a_named_adapter_gives_the_tokens_of_peft_generate(client: RamoleClient, zoo: Zoo) -> None:
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo.base_path)
    base = AutoModelForCausalLM.from_pretrained(zoo.base_path, dtype=torch.float32)
    for adapter in zoo.adapters[::4]:
        model = peft.PeftModel.from_pretrained(base, str(adapter.path)).eval()
        for example in adapter.prompts[:3]:
            ids = torch.tensor([tokenizer(example.prompt)["input_ids"]])
            with torch.inference_mode():
                out = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
                )
            got = await tokens(client, example.prompt, adapters=[adapter.name])
            assert got == out[0, ids.shape[1] :].tolist(), f"{adapter.name}: {example.prompt}"
        base = model.unload()


async def test_retrieval_finds_the_adapter_and_the_report_says_so(client: RamoleClient, zoo: Zoo) -> None:
    hits = 0
    for adapter in zoo.adapters:
        answer = await client.complete(adapter.prompts[0].prompt, sampling=SHORT)
        assert [a.ref for a in answer.routing.adapters] == [a.ref for a in answer.usage.adapters]
        similarities = [a.similarity for a in answer.routing.adapters]
        assert similarities == sorted(similarities, reverse=True)
        assert sum(a.mean_weight for a in answer.usage.adapters) == pytest.approx(1, abs=1e-3)
        assert all(len(a.layer_weights) == 4 for a in answer.usage.adapters)
        hits += answer.routing.adapters[0].ref.name == adapter.name
    assert hits >= 0.8 * len(zoo.adapters)


async def test_prompts_of_two_skills_are_answered_in_parts(client: RamoleClient, zoo: Zoo) -> None:
    pairs = [zoo.pairs[i] for i in (0, 12, 15, 34, 41, 45, 62, 67)]
    in_parts = replace(PRESETS["selection"], reroute=Reroute.AT, separators=(SEPARATOR.strip(),), max_parts=2)

    async def right(composition: Composition | None, *, named: bool = False) -> int:
        answers = await asyncio.gather(
            *(
                client.complete(
                    pair.prompt, composition=composition, sampling=SHORT, adapters=pair.adapters if named else ()
                )
                for pair in pairs
            )
        )
        return sum(answer.text.strip() == pair.answer for answer, pair in zip(answers, pairs, strict=True))

    assert await right(None) == 0
    assert await right(PRESETS["mixture"], named=True) <= 2
    assert await right(in_parts) >= 6
    assert await right(in_parts, named=True) >= 6


async def test_a_cancelled_request_leaves_the_engine_idle(client: RamoleClient, zoo: Zoo) -> None:
    events = client.generate(zoo.adapters[0].prompts[0].prompt, sampling=Sampling(max_tokens=150))
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(60):
        while (load := await client.describe()).running or load.waiting:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.05)
