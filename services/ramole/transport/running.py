"""The calls that a server works on, so that one that stops can wait for them, and break off the rest with a status."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ramole.core.errors import Unavailable

LAST_WORD_S = 2.0
"""How long those that are broken off may take to tell their clients."""


class RunningCalls:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._broken_off: set[asyncio.Task[object]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One call, as long as the block.

        Raises:
            Unavailable: it was broken off.
        """
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._is_idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if task in self._broken_off and task.uncancel() == 0:
                raise Unavailable("the server stops before the call has ended", remedy="retry with back-off") from None
            raise
        finally:
            self._tasks.discard(task)
            self._broken_off.discard(task)
            if not self._tasks:
                self._is_idle.set()

    async def end(self, grace_s: float) -> None:
        """Waits so long for all of them to end; then breaks off those that still run."""
        await self._idle_within(grace_s)
        self._broken_off = set(self._tasks)
        for task in self._broken_off:
            task.cancel()
        await self._idle_within(LAST_WORD_S)

    async def _idle_within(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._is_idle.wait()
