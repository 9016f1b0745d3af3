"""The engine's thread behind asyncio: concurrent clients, cancellation, stop strings, failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.composition import Composition, Expert
from ramole.core.errors import Internal, InvalidInput, Unavailable, WrongState
from ramole.core.sampling import Sampling
from ramole.executor.sequence import FinishReason
from ramole.executor.text import TextCodec, TextStream
from ramole.executor.worker import Chunk, Done, EngineWorker, _gathered
from support.engine_world import Words, World, make_world


@pytest.fixture
async def worker() -> AsyncIterator[tuple[World, EngineWorker]]:
    world = make_world()
    worker = EngineWorker(TextCodec(Words(), {2}))
    worker.start(world.engine)
    yield world, worker
    await worker.stop()


async def answer(worker: EngineWorker, prompt: str, *digests: str, **sampling: Any) -> tuple[str, Done]:
    experts = tuple(Expert(d) for d in digests)
    text, done = "", None
    async for event in worker.generate(prompt, experts, Composition(), Sampling(**sampling)):
        if isinstance(event, Chunk):
            text += event.text
        else:
            done = event
    assert done is not None
    return text, done


async def test_concurrent_clients_get_their_own_answers(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    calls = [(f"prompt {i}", [f"a{i % 5}", f"a{(i + 2) % 7}"][: i % 3]) for i in range(20)]
    alone = [await answer(engine_worker, p, *d, max_tokens=9) for p, d in calls]
    together = await asyncio.gather(*(answer(engine_worker, p, *d, max_tokens=9) for p, d in calls))
    assert [text for text, _ in together] == [text for text, _ in alone]
    assert max(done.sequence.max_batch for _, done in together) > 4
    assert all(len(text) == len(done.sequence.tokens) for text, done in together if 2 not in done.sequence.tokens)


async def test_a_stop_string_ends_the_answer_and_frees_its_row(worker: tuple[World, EngineWorker]) -> None:
    _world, engine_worker = worker
    text, _ = await answer(engine_worker, "hello", "a1", max_tokens=12)
    stop = text[4:6]
    cut, done = await answer(engine_worker, "hello", "a1", max_tokens=12, stop=(stop,))
    assert cut == text[: text.index(stop)]
    assert done.finish_reason is FinishReason.STOP
    assert await engine_worker.ask(lambda engine: engine.num_running) == 0


async def test_closing_the_stream_cancels_the_request(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    events = engine_worker.generate("hello", (Expert("a1"),), Composition(), Sampling(max_tokens=80))
    await anext(events)
    await events.aclose()
    assert await engine_worker.ask(lambda engine: engine.num_running) == 0


async def test_errors_reach_their_own_caller_only(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    results = await asyncio.gather(
        answer(engine_worker, "x" * 95, max_tokens=40),
        answer(engine_worker, "hello", "unknown"),
        answer(engine_worker, "hello", "a1", max_tokens=5),
        return_exceptions=True,
    )
    assert isinstance(results[0], InvalidInput)
    assert isinstance(results[1], WrongState)
    assert isinstance(results[2], tuple)


async def test_what_raises_in_one_answers_text_reaches_its_own_caller_only(
    worker: tuple[World, EngineWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, engine_worker = worker
    want, _ = await answer(engine_worker, "good", "a1", max_tokens=9)
    push, streams = TextStream.push, []

    def break_every_other(stream: TextStream, token: int) -> str:
        streams.append(stream)
        if stream is streams[0]:
            raise ValueError("a token that no text can be made of")
        return push(stream, token)

    monkeypatch.setattr(TextStream, "push", break_every_other)
    bad = asyncio.create_task(answer(engine_worker, "bad", max_tokens=50))
    while not streams:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.001)
    good = await answer(engine_worker, "good", "a1", max_tokens=9)
    with pytest.raises(Internal):
        await bad
    assert good[0] == want
    assert await engine_worker.ask(lambda engine: engine.num_running) == 0
    engine_worker.check()


async def test_a_stuck_engine_is_noticed_and_all_who_wait_are_answered() -> None:
    world, engine_worker = make_world(), EngineWorker(TextCodec(Words(), {2}), max_step_s=0.3)
    engine_worker.start(world.engine)
    entered, go_on, run = threading.Event(), threading.Event(), world.engine._runner.run

    def hang(schedule: Any) -> Any:
        entered.set()
        go_on.wait(60)
        return run(schedule)

    world.engine._runner.run = hang  # type: ignore[method-assign]
    try:
        callers = [asyncio.create_task(answer(engine_worker, f"hello {i}", max_tokens=5)) for i in range(3)]
        await asyncio.to_thread(entered.wait, 60)
        asked = asyncio.create_task(engine_worker.ask(lambda engine: engine.num_running))
        async with asyncio.timeout(20):
            results = await asyncio.gather(*callers, asked, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 4
        assert all("stuck" in str(result) for result in results)
        with pytest.raises(Unavailable, match="stuck"):
            engine_worker.check()
        with pytest.raises(Unavailable):
            await answer(engine_worker, "late")
        async with asyncio.timeout(20):
            await engine_worker.stop()  # does not wait for it
    finally:
        go_on.set()
    await asyncio.to_thread(engine_worker._thread.join, 60)
    assert not engine_worker._thread.is_alive(), "it came back and went on"


async def test_a_slow_engine_that_makes_steps_is_not_stuck() -> None:
    world, engine_worker = make_world(), EngineWorker(TextCodec(Words(), {2}), max_step_s=0.5)
    engine_worker.start(world.engine)
    run = world.engine._runner.run

    def slow(schedule: Any) -> Any:
        time.sleep(0.1)
        return run(schedule)

    world.engine._runner.run = slow  # type: ignore[method-assign]
    text, _ = await answer(engine_worker, "hello", max_tokens=9)
    assert text
    await engine_worker.stop()


async def test_a_dead_engine_answers_unavailable_and_says_so(worker: tuple[World, EngineWorker]) -> None:
    world, engine_worker = worker
    running = asyncio.create_task(answer(engine_worker, "hello", max_tokens=90))

    def explode(schedule: object) -> None:
        raise RuntimeError("device lost")

    world.engine._runner.run = explode  # type: ignore[method-assign, assignment]
    world.engine._runner.check_device = lambda: explode(None)  # type: ignore[method-assign]
    asked = asyncio.create_task(engine_worker.ask(lambda engine: engine.num_running))
    async with asyncio.timeout(20):
        results = await asyncio.gather(running, asked, return_exceptions=True)
    assert isinstance(results[0], Unavailable)
    await asyncio.to_thread(engine_worker._thread.join)
    with pytest.raises(Unavailable):
        engine_worker.check()
    with pytest.raises(Unavailable):
        await answer(engine_worker, "hello")


@pytest.mark.parametrize("num_read_at_once", [1, 3, 50])
async def test_a_slow_reader_gets_all_that_has_come_in_one_piece(
    worker: tuple[World, EngineWorker], num_read_at_once: int
) -> None:
    _, engine_worker = worker
    sampling = Sampling(max_tokens=12, logprobs=True)
    alone = [e async for e in engine_worker.generate("hello", (), Composition(), sampling) if isinstance(e, Chunk)]
    tokens = [token for piece in alone for token in piece.token_ids]
    assert all(len(piece.token_ids) == len(piece.logprobs) for piece in alone)
    pieces: list[Chunk] = []
    async for event in engine_worker.generate("hello", (), Composition(), sampling):
        if isinstance(event, Chunk):
            pieces.append(event)
        if len(pieces) % num_read_at_once == 0:
            await engine_worker.ask(lambda engine: None)  # a step of the engine goes by, at least
    assert [token for piece in pieces for token in piece.token_ids] == tokens
    assert "".join(piece.text for piece in pieces) == "".join(piece.text for piece in alone)
    assert sum(len(piece.logprobs) for piece in pieces) == len(tokens)


@given(st.lists(st.one_of(st.text(max_size=3), st.just(None)), min_size=1, max_size=8))
def test_what_waits_is_joined_and_nothing_changes_place(texts: list[str | None]) -> None:
    failure = Unavailable("x")
    events = [failure if text is None else Chunk(text, (len(text),), (0.5,)) for text in texts]

    async def gathered() -> list[object]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for event in events[1:]:
            queue.put_nowait(event)
        return list(_gathered(events[0], queue))

    told = asyncio.run(gathered())
    flat: list[object] = []
    for event in told:
        flat += [event] if event is failure else list(event.token_ids)  # type: ignore[attr-defined]
    assert flat == [failure if text is None else len(text) for text in texts]
    assert all(failure in pair for pair in pairwise(told)), "no two pieces are neighbours"
