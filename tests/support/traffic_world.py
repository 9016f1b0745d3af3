"""Tenants of the traffic, and what Kubernetes does around a system: it leads new connections to gateways that serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from ramole.gateway.keys import KeyFile, Role
from ramole.lab.chaos.traffic import Tenant
from ramole.zoo.catalog import Zoo
from support.fault_proxy import FaultProxy
from support.traffic_tasks import tasks_of

START_S = 90.0


def two_tenants(keys: KeyFile, zoo: Zoo) -> tuple[Tenant, Tenant]:
    """``ann`` and ``bob``, with three adapters each, and keys of their own."""
    half = len(zoo.adapters) // 2
    first, second = (
        Tenant(name, keys.add(name, name, Role.PUBLISHER)[1], tasks_of(adapters))
        for name, adapters in (("ann", zoo.adapters[:3]), ("bob", zoo.adapters[half : half + 3]))
    )
    return first, second


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
