"""Notices a reader that takes nothing any more, at the price of one timer a stream instead of one a message."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class StallGuard:
    """Cuts off a task whose writes do not get through. One guard belongs to one task and one stream::

        with StallGuard(30.0, error) as guard:
            ...
            with guard.waiting():
                await write(message)

    Args:
        limit_s: how long one write may take.
        error: raised from the block when one took longer.
    """

    def __init__(self, limit_s: float, error: Exception) -> None:
        self._limit_s = limit_s
        self._error = error
        self._since: float | None = None
        self._has_stalled = False
        self._wait = _Wait(self)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._limit_s, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._has_stalled and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise self._error from error

    def waiting(self) -> _Wait:
        """Inside this block the reader is waited for."""
        return self._wait

    def _look(self) -> None:
        now = self._loop.time()
        due = now + self._limit_s if self._since is None else self._since + self._limit_s
        if due > now:
            self._timer = self._loop.call_at(due, self._look)
            return
        self._has_stalled = True
        self._task.cancel()


class _Wait:
    """Reused for every write of a stream."""

    __slots__ = ("_guard",)

    def __init__(self, guard: StallGuard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        self._guard._since = self._guard._loop.time()

    def __exit__(self, *_: object) -> None:
        self._guard._since = None
