"""An event loop in a thread of its own, for callers that have none, or one that must not wait."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from threading import RLock, Thread, current_thread
from typing import Any, TypeVar, cast

from ramole.core.errors import Cancelled, WrongState

T = TypeVar("T")

_END = object()


class LoopThread:
    """Runs coroutines for any thread of the process that made it.

    What interrupts the waiting thread (Ctrl-C) cancels the coroutine.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._lock = RLock()  # the collector may drop an iterator in the thread that holds it
        self._is_closed = False
        self._thread = Thread(target=self._loop.run_forever, name="ramole-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine.

        Raises:
            Cancelled: the loop was closed meanwhile.
            WrongState: it is closed, or belongs to another process.
        """
        try:
            with self._lock:
                self._check()
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except WrongState:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise Cancelled("the client was closed", remedy="close it after its calls") from None
        except BaseException:
            future.cancel()
            raise

    def iterate(self, events: AsyncGenerator[T]) -> Generator[T]:
        """The same events. Closing or dropping the iterator half-way closes the generator."""
        turn = asyncio.Lock()
        try:
            while (event := self.run(_next(events, turn))) is not _END:
                yield cast(T, event)
        finally:
            self._end(_close(events, turn))

    def close(self, last: Callable[[], Awaitable[None]] | None = None) -> None:
        """Calls `last`, cancels what still runs, and ends the thread. May be called again."""
        with self._lock:
            is_ours = not self._is_closed and self._pid == os.getpid()
            self._is_closed = True
        if not is_ours:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._finish(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _finish(self, last: Callable[[], Awaitable[None]] | None) -> None:
        if last is not None:
            await last()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _end(self, closing: Coroutine[Any, Any, None]) -> None:
        """Runs what closes a generator that is at its end, or that nobody wants to read on."""
        with self._lock:
            if self._is_closed or self._pid != os.getpid():
                closing.close()
                return
            future = asyncio.run_coroutine_threadsafe(closing, self._loop)
        if current_thread() is not self._thread:  # there the collector has found the iterator: do not wait for oneself
            future.result()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise WrongState("this client belongs to another process", remedy="make one after the fork")
        if self._is_closed:
            raise WrongState("this client is closed", remedy="make another one")


async def _next(events: AsyncGenerator[T], turn: asyncio.Lock) -> T | object:
    async with turn:
        return await anext(events, _END)


async def _close(events: AsyncGenerator[Any], turn: asyncio.Lock) -> None:
    """Not while an event is waited for: that has been cancelled, but may not have ended yet."""
    async with turn:
        await events.aclose()
