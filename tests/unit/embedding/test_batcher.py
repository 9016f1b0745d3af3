from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ramole.core.errors import Unavailable
from ramole.embedding.batcher import MicroBatcher

PATIENCE_S = 20


def vector_of(text: str) -> NDArray[np.float32]:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8).astype(np.float32)


class Recorder:
    """An encoder that remembers its batches and can be stopped in the middle of one."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.is_inside = False
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.is_gated = False

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        assert not self.is_inside, "two batches at once"
        self.is_inside = True
        self.batches.append(list(texts))
        self.entered.release()
        if self.is_gated:
            assert self.gate.acquire(timeout=PATIENCE_S)
        self.is_inside = False
        if any("poison" in text for text in texts):
            raise FloatingPointError("poison")
        return np.stack([vector_of(text) for text in texts])

    async def enters(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)


async def with_batcher(
    encode: Callable[[list[str]], NDArray[np.float32]], max_batch: int, window_s: float
) -> MicroBatcher:
    batcher = MicroBatcher(encode, max_batch=max_batch, window_s=window_s)
    batcher.start()
    return batcher


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.text("abc", max_size=3), min_size=1, max_size=9),
        st.integers(0, 3),  # turns of the event loop before it arrives
        st.none() | st.integers(0, 6),  # turns after which its caller gives up
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS, max_batch=st.integers(1, 8), window_s=st.sampled_from([0.0, 0.001]))
def test_every_caller_gets_exactly_its_own_vectors(
    requests: list[tuple[list[str], int, int | None]], max_batch: int, window_s: float
) -> None:
    recorder = Recorder()

    async def call(batcher: MicroBatcher, texts: list[str], delay: int, patience: int | None) -> None:
        for _ in range(delay):
            await asyncio.sleep(0)
        task = asyncio.create_task(batcher.submit(texts))
        if patience is not None:
            for _ in range(patience):
                await asyncio.sleep(0)
            task.cancel()
        try:
            got = await task
        except asyncio.CancelledError:
            assert patience is not None
            return
        assert np.array_equal(got, np.stack([vector_of(text) for text in texts]))

    async def main() -> None:
        batcher = await with_batcher(recorder, max_batch, window_s)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(call(batcher, *request))
        await batcher.close()

    asyncio.run(main())
    assert all(1 <= len(batch) <= max_batch for batch in recorder.batches)
    assert sum(map(len, recorder.batches)) <= sum(len(texts) for texts, _, _ in requests)


async def test_texts_that_arrive_within_the_window_share_a_batch() -> None:
    recorder = Recorder()
    batcher = await with_batcher(recorder, max_batch=32, window_s=0.2)
    await asyncio.gather(*(batcher.submit([f"t{i}"]) for i in range(10)))
    assert [sorted(batch) for batch in recorder.batches] == [[f"t{i}" for i in range(10)]]
    await batcher.close()


async def test_a_lone_text_waits_for_the_window_only_and_a_full_batch_not_at_all() -> None:
    recorder = Recorder()
    patient = await with_batcher(recorder, max_batch=4, window_s=3600)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(patient.submit([f"t{i}"]) for i in range(4)))
        waiting = asyncio.create_task(patient.submit(["alone"]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await patient.submit(["b", "c", "d"])
        await waiting
    assert len(recorder.batches) == 2
    await patient.close()
    quick = await with_batcher(recorder, max_batch=4, window_s=0.01)
    async with asyncio.timeout(PATIENCE_S):
        await quick.submit(["alone"])
    await quick.close()


async def test_a_prompt_rides_in_the_next_batch_beside_a_big_upload() -> None:
    recorder = Recorder()
    recorder.is_gated = True
    batcher = await with_batcher(recorder, max_batch=4, window_s=0)
    upload = asyncio.create_task(batcher.submit([f"sample {i}" for i in range(20)]))
    await recorder.enters()
    prompts = [asyncio.create_task(batcher.submit([f"prompt {i}"])) for i in range(2)]
    await asyncio.sleep(0)
    for _ in range(2):
        recorder.gate.release()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*prompts)
    assert set(recorder.batches[1]) == {"prompt 0", "prompt 1", "sample 4", "sample 5"}
    assert not upload.done()
    recorder.gate.release(10)
    assert np.array_equal(await upload, np.stack([vector_of(f"sample {i}") for i in range(20)]))
    await batcher.close()


async def test_a_caller_that_gave_up_costs_nothing_more() -> None:
    recorder = Recorder()
    recorder.is_gated = True
    batcher = await with_batcher(recorder, max_batch=2, window_s=0)
    running = asyncio.create_task(batcher.submit(["running 0", "running 1", "running 2"]))
    await recorder.enters()
    waiting = asyncio.create_task(batcher.submit(["waiting"]))
    await asyncio.sleep(0)
    running.cancel()
    waiting.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    recorder.gate.release(10)
    await batcher.submit(["later"])
    assert recorder.batches == [["running 0", "running 1"], ["later"]]
    await batcher.close()


async def test_a_failed_batch_fails_its_callers_and_nobody_else() -> None:
    recorder = Recorder()
    recorder.is_gated = True
    batcher = await with_batcher(recorder, max_batch=2, window_s=0)
    first = asyncio.create_task(batcher.submit(["first"]))
    await recorder.enters()
    bad = asyncio.create_task(batcher.submit(["poison", "never encoded", "neither"]))
    beside = asyncio.create_task(batcher.submit(["beside"]))
    behind = asyncio.create_task(batcher.submit(["behind"]))
    await asyncio.sleep(0)
    recorder.gate.release(10)
    results = await asyncio.gather(first, bad, beside, behind, return_exceptions=True)
    assert [type(result) for result in results] == [np.ndarray, FloatingPointError, FloatingPointError, np.ndarray]
    assert recorder.batches == [["first"], ["poison", "beside"], ["behind"]]
    assert len(await batcher.submit(["again"])) == 1
    await batcher.close()


async def test_an_encoder_that_loses_a_row_is_an_error() -> None:
    batcher = await with_batcher(lambda texts: np.zeros((len(texts) - 1, 3), np.float32), max_batch=4, window_s=0)
    with pytest.raises(ValueError, match="1 vectors for 2 texts"):
        await batcher.submit(["a", "b"])
    await batcher.close()


async def test_close_fails_what_waits_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    recorder = Recorder()
    recorder.is_gated = True
    batcher = await with_batcher(recorder, max_batch=1, window_s=0)
    tasks = [asyncio.create_task(batcher.submit([f"t{i}"])) for i in range(3)]
    await recorder.enters()
    closing = asyncio.create_task(batcher.close())
    async with asyncio.timeout(PATIENCE_S):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    with pytest.raises(Unavailable):
        await batcher.submit(["late"])
    recorder.gate.release(10)
    await closing
    assert recorder.batches == [["t0"]]
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("encoder")}


async def test_before_the_start_it_is_unavailable() -> None:
    batcher = MicroBatcher(Recorder(), max_batch=1, window_s=0)
    with pytest.raises(Unavailable):
        await batcher.submit(["early"])
    await batcher.close()
