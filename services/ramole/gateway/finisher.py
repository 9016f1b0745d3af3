"""Work that must not stop half-way when its caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ramole.core.call import CallContext, call_scope, current_call

Result = TypeVar("Result")


class Finisher:
    """Runs coroutines to their end, on a time budget of their own, whatever happens to who waits for them.

    Args:
        budget_s: deadline of the work, in seconds from its start.
    """

    def __init__(self, budget_s: float = 60.0) -> None:
        self._budget_s = budget_s
        self._running: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Waits for `work`; a cancelled caller stops waiting, the work goes on."""
        asked = current_call()
        call = CallContext.begin(asked.request_id, self._budget_s, asked.principal)
        with call_scope(call):  # a task takes over the context of the moment it is created in
            task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Waits until nothing runs any more."""
        while self._running:
            await asyncio.wait(self._running)
