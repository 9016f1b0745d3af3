"""The guard of a stream's writes: who reads in time is never cut off, who does not is."""

from __future__ import annotations

import asyncio

import pytest

from ramole.transport.stall import StallGuard


class UnreadError(Exception):
    pass


async def test_a_write_that_takes_too_long_ends_the_block() -> None:
    with pytest.raises(UnreadError), StallGuard(0.05, UnreadError()) as guard, guard.waiting():
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "the task goes on"


async def test_work_between_the_writes_may_take_its_time() -> None:
    with StallGuard(0.05, UnreadError()) as guard:
        for _ in range(3):
            with guard.waiting():
                await asyncio.sleep(0)
            await asyncio.sleep(0.12)


async def test_a_late_stall_is_noticed_as_soon_as_an_early_one() -> None:
    loop = asyncio.get_running_loop()
    begun_s: list[float] = []

    async def stream() -> None:
        with StallGuard(0.2, UnreadError()) as guard:
            await asyncio.sleep(0.3)
            begun_s.append(loop.time())
            with guard.waiting():
                await asyncio.Event().wait()

    with pytest.raises(UnreadError):
        await stream()
    assert loop.time() - begun_s[0] >= 0.19


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def stream() -> None:
        with StallGuard(60, UnreadError()) as guard, guard.waiting():
            await asyncio.Event().wait()

    task = asyncio.create_task(stream())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_errors_pass() -> None:
    with pytest.raises(TimeoutError), StallGuard(60, UnreadError()):
        raise TimeoutError
