"""What to look at where a server does not start or does not serve well: each thing by itself, with what to do about it.

Looks only: makes nothing, mends nothing, and leaves a running server alone. What a start would refuse is found by the
functions that refuse it; an embedded index is opened and closed as a start does, while no server runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from ramole.app.doctor import computing, keeping, serving
from ramole.app.doctor.findings import Case, Finding, Verdict
from ramole.app.resolution import resolve
from ramole.core.errors import RamoleError
from ramole.core.settings import Settings
from ramole.executor.memory_plan import Plan

__all__ = ["Access", "Case", "Checked", "Finding", "Verdict", "examine"]

Access = serving.Access


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at; `plan`: what the executor would take of its device, where that was it."""

    name: str
    finding: Finding
    plan: Plan | None = None


CHECKS: dict[str, Callable[[Case], Finding | Awaitable[Finding]]] = {
    "libraries": computing.libraries,
    "device": computing.device,
    "base model": computing.base_model,
    "router": computing.router,
    "encoder": computing.encoder,
    "data folder": keeping.data_folder,
    "disk": keeping.disk,
    "store": keeping.store,
    "memory": computing.memory,
    "server": serving.server,
    "ports": serving.ports,
    "access": serving.access,
    "certificates": serving.certificates,
    "internal trust": serving.trust,
    "index": keeping.index,
    "caches": keeping.caches,
    "clock": serving.clock,
}
"""In this order: what is found early is used later."""


async def examine(load: Callable[[], Settings], access: Access) -> AsyncIterator[Checked]:
    """Looks at everything, one after the other.

    Args:
        load: reads the settings.
        access: how to ask a server; an address in it = one that may be elsewhere.
    """
    try:
        settings = await asyncio.to_thread(lambda: resolve(load()))
    except RamoleError as error:
        yield Checked("settings", Finding.of(error))
        return
    yield Checked("settings", Finding.ok(f"data_dir {settings.data_dir}, base {settings.base_id}"))
    case = Case(settings, access)
    for name, check in CHECKS.items():
        finding = await _looked(check, case)
        yield Checked(name, finding, case.plan if name == "memory" else None)


async def _looked(check: Callable[[Case], Finding | Awaitable[Finding]], case: Case) -> Finding:
    try:
        if asyncio.iscoroutinefunction(check):
            found: Finding = await check(case)
        else:
            found = await asyncio.to_thread(check, case)  # type: ignore[arg-type]
        return found
    except RamoleError as error:
        return Finding.of(error)
    except Exception as error:  # a library's own words; what else is wrong is still looked at
        said = " ".join(str(error).split())
        return Finding.failed(f"{type(error).__name__}: {said[:300]}", "mend what it names, and look again")
