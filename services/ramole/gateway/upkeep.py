"""Keeps the index in line with the store for as long as the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_exponential

from ramole.core.errors import RamoleError, Unavailable
from ramole.gateway.backends import Backends
from ramole.gateway.reconcile import reconcile

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(slots=True)
class UpkeepCounts:
    """Runs so far, and what they put right."""

    num_done: int = 0
    num_failed: int = 0
    num_indexed: int = 0
    num_removed: int = 0


class Upkeep:
    """Reconciles at the start, once in a while, and soon after something was left half done.

    Args:
        patience_s: how long a start waits for its first run. Without an index, requests that name their adapters are
            still answered.
        pause_s: between two runs that nobody asked for.
        longest_retry_s: between two tries while a service is down.

    Attributes:
        counts: of its runs.
    """

    def __init__(
        self, backends: Backends, *, patience_s: float, pause_s: float = 3600.0, longest_retry_s: float = 30.0
    ) -> None:
        self._backends = backends
        self._pause_s = pause_s
        self._patience_s = patience_s
        self._longest_retry_s = longest_retry_s
        self._asked = asyncio.Event()
        self._has_run = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._behind_since_s: float | None = None
        self.counts = UpkeepCounts()

    @property
    def lag_s(self) -> float:
        """How long something has been out of line; 0 = nothing is known to be. Callable from any thread."""
        since_s = self._behind_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    async def start(self) -> None:
        """Returns once the index is in line with the store, or patience has ended."""
        self._behind_since_s = time.monotonic()
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._patience_s):
                await self._has_run.wait()
        except TimeoutError:
            _log.warning("the index is not in line with the store yet; retrieval may find too little for now")

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def ask(self) -> None:
        """Something may be out of line: looks at it soon."""
        self._asked.set()
        if self._behind_since_s is None:
            self._behind_since_s = time.monotonic()

    async def _run(self) -> None:
        retry_s = 0.05
        while True:
            self._asked.clear()
            try:
                num_indexed, num_removed = await reconcile(self._backends)
            except Exception as error:  # whatever it is, the gateway goes on, and the next run may do better
                self.counts.num_failed += 1
                if self._behind_since_s is None:
                    self._behind_since_s = time.monotonic()
                if not isinstance(error, RamoleError):
                    _log.exception("the index cannot be reconciled")
                elif self._has_run.is_set() or not isinstance(error, Unavailable):
                    _log.warning("the index is reconciled later: %s", error)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, self._longest_retry_s)
                continue
            self._has_run.set()
            self.counts.num_done += 1
            self.counts.num_indexed += num_indexed
            self.counts.num_removed += num_removed
            if not self._asked.is_set():
                self._behind_since_s = None
            retry_s = 0.05
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._asked.wait()


async def until_available(
    step: Callable[[], Awaitable[Result]], *, limit_s: float = 300.0, longest_pause_s: float = 2.0
) -> Result:
    """Runs `step` until it raises no Unavailable: services that start together wait for each other.

    Raises:
        Unavailable: of the last try, when `limit_s` seconds were not enough.
    """

    async def awaited() -> Result:  # tenacity awaits coroutine functions only, and `step` may be any callable
        return await step()

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_exponential(0.05, max=longest_pause_s),
        stop=stop_before_delay(limit_s),
        reraise=True,
    )
    return await retrying(awaited)
