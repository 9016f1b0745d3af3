"""The one thread that talks to Ray while an event loop waits."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_REARM_S = 0.1


class RayThread:
    """Runs blocking work in order, on one thread that lives as long as the process.

    As long: Ray's processes are bound to the thread that has started them and die with it. A daemon: work that hangs
    must not keep the process from ending.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns. A caller that is cancelled leaves at once; its work goes on, and later work
        waits for it."""
        done: Future[T] = Future()

        def step() -> None:
            try:
                result = work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(result)

        self._work.put(step)
        waiting = asyncio.wrap_future(done)
        try:
            while not waiting.done():
                await asyncio.wait((waiting,), timeout=_REARM_S)
                _rearm_signals()
        except asyncio.CancelledError:
            # Not `waiting.cancel()`: it would cancel `done`, which the thread is about to set.
            waiting.add_done_callback(lambda over: over.cancelled() or over.exception())
            raise
        return waiting.result()

    def _run(self) -> None:
        while True:
            self._work.get()()


def _rearm_signals() -> None:
    """Installs this process's own handlers again: while Ray starts, its core puts in one that aborts on SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)
