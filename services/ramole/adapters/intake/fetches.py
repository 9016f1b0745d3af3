"""Fetches from sources, which may hang: a few threads of their own, and so much time for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

from ramole.core.call import current_call
from ramole.core.errors import LimitExceeded, Unavailable

_SHARE_OF_DEADLINE = 0.9


class Fetches:
    """Runs blocking fetches. Belongs to one event loop.

    A thread cannot be stopped. One whose caller has gone keeps its place until it ends by itself, so sources that hang
    cannot pile up threads. They are daemons: none keeps the process from ending.

    Args:
        max_threads: fetches at once, abandoned ones included.
        timeout_s: of one fetch, the wait for its place included; the caller's deadline may shorten it.
    """

    def __init__(self, max_threads: int, timeout_s: float) -> None:
        self._max_threads = max_threads
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(max_threads)

    async def run(self, uri: str, work: Callable[[], None]) -> None:
        """Runs `work`, which fetches `uri`, in a thread.

        Raises:
            LimitExceeded: other fetches had all places until the end of the time.
            Unavailable: it took longer than its time. It goes on, unheard.
            RamoleError: whatever `work` raises.
        """
        limit_s = self._limit_s()
        has_place = False
        try:
            async with asyncio.timeout(limit_s):
                await self._places.acquire()
                has_place = True
                # The place belongs to the thread: whoever stops waiting must not free it.
                await asyncio.shield(asyncio.create_task(self._run(work)))
        except TimeoutError as error:
            if not has_place:
                raise LimitExceeded(
                    f"{self._max_threads} fetches from sources are in flight, the most at once",
                    field="header.source",
                    remedy="retry later, or send the bytes instead",
                    retry_after_s=limit_s,
                ) from error
            raise Unavailable(
                f"{uri[:160]!r} was not read within {limit_s:.3g} s",
                field="header.source",
                remedy="check that the source answers and retry, send the bytes instead, or have the operator raise "
                "adapters.source_timeout_s",
            ) from error

    def _limit_s(self) -> float:
        remaining_s = current_call().remaining_s()
        if remaining_s is None:
            return self._timeout_s
        # Some of the caller's time is left for the answer, or it would never learn which part was slow.
        return min(self._timeout_s, _SHARE_OF_DEADLINE * remaining_s)

    async def _run(self, work: Callable[[], None]) -> None:
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()

        def body() -> None:
            try:
                work()
            except BaseException as error:  # it belongs to whoever waits
                done.set_exception(error)
            else:
                done.set_result(None)

        try:
            Thread(target=body, name="fetch", daemon=True).start()
            await asyncio.wrap_future(done)
        finally:
            self._places.release()
