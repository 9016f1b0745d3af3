"""Answers in parts on both ports before a real engine, a real store and a real index."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from ramole.client import Chunk, Request, Routing, Usage
from ramole.core.composition import PRESETS, Composition, Expert, Reroute
from ramole.core.errors import Cancelled, DeadlineExceeded
from ramole.core.sampling import Sampling
from ramole.executor.text import Part
from ramole.executor.worker import Chunk as EngineChunk
from support.engine_door import EngineDoor, counted_workers

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALONE = PRESETS["selection"]
PROMPT = "ask n0"
SAMPLING = Sampling(max_tokens=24)
LONG = Sampling(max_tokens=3900)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineDoor]:
    """For `PROMPT` adapter a is the nearest, and then b, c, d."""
    door = EngineDoor(
        tmp_path_factory.mktemp("door"), num_slots=5, max_rows=8, token_budget=64, max_len=4096, max_waiting=64
    )
    door.open_both(deadline_s=300.0)
    with pytest.MonkeyPatch.context() as patch:
        counted_workers(patch)
        try:
            await door.start("a", "b", "c", "d")
            yield door
        finally:
            await door.stop()


async def told(door: EngineDoor, composition: Composition, **more: Any) -> tuple[list[str], list[str], Usage]:
    """Who answered each part with which text, and the report."""
    names, texts = [], []
    async for event in door.client.generate(PROMPT, composition=composition, **{"sampling": SAMPLING, **more}):
        if isinstance(event, Routing):
            names.append(event.adapters[0].ref.name)
            texts.append("")
        elif isinstance(event, Chunk):
            texts[-1] += event.text
        else:
            usage = event
    return names, texts, usage


async def alone(door: EngineDoor, name: str, answer: tuple[int, ...] = (), sampling: Sampling = SAMPLING) -> str:
    """What one adapter goes on with, asked of the engine itself."""
    digest = (await door.client.get(name)).ref.digest
    events = door.worker.generate(PROMPT, (Expert(digest, 1.0),), ALONE, sampling, Part(answer))
    return "".join([event.text async for event in events if isinstance(event, EngineChunk)])


def tokens(text: str) -> tuple[int, ...]:
    return tuple(ord(character) - 0x4E00 for character in text)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def separator(door: EngineDoor) -> str:
    """Two characters in the middle of what a says."""
    return (await alone(door, "a"))[4:6]


def at(separator: str, **more: Any) -> Composition:
    return replace(ALONE, reroute=Reroute.AT, separators=(separator,), **more)


async def test_each_part_is_what_its_adapter_says_after_the_parts_before(door: EngineDoor, separator: str) -> None:
    names, texts, usage = await told(door, at(separator, max_parts=2))
    assert names == ["a", "b"]
    first = (await alone(door, "a")).partition(separator)
    assert texts == [first[0] + first[1], await alone(door, "b", tokens(texts[0]))]
    assert sum(map(len, texts)) == SAMPLING.max_tokens
    assert [part.completion_tokens for part in usage.parts] == list(map(len, texts))
    assert [part.adapters[0].mean_weight for part in usage.parts] == pytest.approx([1.0, 1.0])
    shares = [len(text) / SAMPLING.max_tokens for text in texts]
    assert [used.mean_weight for used in usage.adapters] == pytest.approx(shares)


async def test_named_ones_take_turns_and_seeds_repeat(door: EngineDoor, separator: str) -> None:
    names, _, _ = await told(door, at(separator), adapters=["d", "a"])
    assert names == ["a", "d"], "who begins is the nearer one"
    seeded = Sampling(max_tokens=24, temperature=1.2, seed=11, repetition_penalty=1.3)
    first = await told(door, at(separator), sampling=seeded)
    assert (await told(door, at(separator), sampling=seeded))[:2] == first[:2]


async def test_bystanders_keep_their_answers(door: EngineDoor, separator: str) -> None:
    prompts = [f"by n{i}" for i in range(4)]

    async def bystander(i: int) -> str:
        return (await door.client.complete(prompts[i], composition=ALONE, sampling=SAMPLING)).text

    before = [await bystander(i) for i in range(4)]
    parts = await told(door, at(separator))
    together = await asyncio.gather(*(bystander(i) for i in range(4)), *(told(door, at(separator)) for _ in range(4)))
    assert list(together[:4]) == before
    assert [each[:2] for each in together[4:]] == [parts[:2]] * 4


async def test_both_ports_and_every_call_tell_the_same(door: EngineDoor, separator: str) -> None:
    names, texts, usage = await told(door, at(separator))
    whole = await door.client.complete(PROMPT, composition=at(separator), sampling=SAMPLING)
    assert whole.text == "".join(texts)
    assert [each.adapters[0].ref.name for each in (whole.routing, *whole.later_routings)] == names
    batch = [""] * 3
    requests = [Request(PROMPT, composition=at(separator), sampling=SAMPLING)] * 3
    async for index, event in door.client.generate_batch(requests):
        batch[index] += event.text if isinstance(event, Chunk) else ""
    assert batch == [whole.text] * 3
    body = {
        "model": "auto", "prompt": PROMPT, "max_tokens": 24, "temperature": 0,
        "ramole": {"reroute": "at", "separators": [separator]},
    }  # fmt: skip
    async with door.http() as http:
        answer = (await http.post("/v1/completions", json=body)).json()
        assert answer["choices"][0]["text"] == whole.text
        report = answer["ramole"][0]
        found = [each["adapters"][0]["adapter"]["name"] for each in (report["routing"], *report["later_routings"])]
        assert found == names
        assert [part["completion_tokens"] for part in report["usage"]["parts"]] == list(map(len, texts))
        stream = (await http.post("/v1/completions", json=body | {"stream": True})).text
        events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
        pieces: list[list[str]] = []
        for event in events:
            if "routing" in event.get("ramole", {}) and "usage" not in event["ramole"]:
                pieces.append([event["ramole"]["routing"]["adapters"][0]["adapter"]["name"], ""])
            pieces[-1][1] += event["choices"][0]["text"]
        assert pieces == [list(pair) for pair in zip(names, texts, strict=True)]
        for change, field in (
            ({"model": "zoo/base"}, "ramole.reroute"),
            ({"model": "a"}, "ramole.reroute"),
            ({"ramole": {"reroute": "at"}}, "ramole.separators"),
            ({"ramole": {"max_parts": 2}}, "ramole.max_parts"),
            ({"ramole": {"reroute": "sometimes"}}, "ramole.reroute"),
        ):
            refused = await http.post("/v1/completions", json=body | change)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
    assert len(usage.parts) == len(names)


async def until_part(events: Any, number: int) -> None:
    """Reads on to the first piece of a part."""
    async for event in events:
        if isinstance(event, Routing) and event.part == number:
            break
    await anext(events)


async def rest(events: Any) -> None:
    """Reads to the end."""
    async for _ in events:
        continue


async def test_whoever_leaves_in_a_later_part_leaves_nothing(door: EngineDoor, separator: str) -> None:
    async with aclosing(door.client.generate(PROMPT, composition=at(separator, max_parts=2), sampling=LONG)) as events:
        await until_part(events, 1)
    async with asyncio.timeout(30):
        while any((await door.held()).values()):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


async def test_a_deadline_is_that_of_the_whole_answer(door: EngineDoor, separator: str) -> None:
    impatient = door.client.with_options(timeout_s=1.5)
    with pytest.raises(DeadlineExceeded):
        await rest(impatient.generate(PROMPT, composition=at(separator, max_parts=2), sampling=LONG))


async def test_removals_hold_in_the_middle_of_an_answer(door: EngineDoor, separator: str) -> None:
    """Last: it removes adapters."""
    composition = at(separator, max_parts=2)
    events = door.client.generate(PROMPT, composition=composition, sampling=LONG)
    await until_part(events, 1)
    await door.client.revoke("a")  # it has answered, and is in no part that runs
    for _ in range(3):
        await anext(events)
    await door.client.delete("b")  # who runs finishes
    for _ in range(3):
        await anext(events)
    await events.aclose()
    events = door.client.generate("go n2", composition=replace(composition, separators=("no such",)), sampling=LONG)
    assert isinstance(first := await anext(events), Routing)
    assert first.adapters[0].ref.name == "c"
    await anext(events)
    await door.client.revoke("c")
    with pytest.raises(Cancelled):
        await rest(events)
