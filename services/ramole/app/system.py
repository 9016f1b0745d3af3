"""What every running system looks like, and how one runs until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from ramole.app.logs import log_to
from ramole.core.settings import Settings


class System(Protocol):
    """A running system."""

    @property
    def address(self) -> str:
        """``host:port`` of the public gateway."""

    @property
    def http_address(self) -> str:
        """``host:port`` of its HTTP port; '' = there is none, or it is any free one of some machine."""

    async def stop(self) -> None:
        """Drains and ends everything; nothing is left running. Safe to call more than once."""


async def run(
    starter: Callable[[Settings], Awaitable[System]], settings: Settings, on_ready: Callable[[System], None]
) -> None:
    """Runs a system until SIGINT or SIGTERM, also during its start, and stops it in order. Logs to standard error.

    Args:
        starter: `start` or `start_local`.
        settings: resolved.
        on_ready: called once when the system serves.
    """
    unfollow = log_to(sys.stderr, settings)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    starting = asyncio.ensure_future(starter(settings))
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
        if starting.cancelled():
            return
        system = starting.result()
        try:
            if not stopped.is_set():
                on_ready(system)
                await waiting
        finally:
            await system.stop()
    finally:
        unfollow()
        waiting.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
