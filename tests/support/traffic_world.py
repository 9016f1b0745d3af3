"""What Kubernetes does around a system: it leads new connections to gateways that serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from support.fault_proxy import FaultProxy

START_S = 90.0


@asynccontextmanager
async def following(gateways: Callable[[], Sequence[str]]) -> AsyncIterator[FaultProxy]:
    """A Service of Kubernetes: one address that leads to those of `gateways`, which is asked each second."""
    deadline = time.monotonic() + START_S
    while not (first := await asyncio.to_thread(gateways)):
        assert time.monotonic() < deadline, "no gateway serves"
        await asyncio.sleep(0.5)
    async with FaultProxy(first) as service:

        async def follow() -> None:
            while True:
                service.backends = list(await asyncio.to_thread(gateways)) or service.backends
                await asyncio.sleep(1)

        task = asyncio.create_task(follow())
        try:
            yield service
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
