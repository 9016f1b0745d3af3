"""Traffic around one fault: until it has struck, until all is well again, and the row that tells what it cost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from ramole.lab.chaos.history import OK, Asked, Changed
from ramole.lab.chaos.traffic import Tenant, Traffic
from statuses import ROWS
from support.fault_report import Row

CODES = frozenset(row.kind.reason() for row in ROWS)
PATIENCE_S = 150.0
"""The longest that anything here is waited for: the machine may be busy with other things."""
ENOUGH = 3
"""Answers of each kind that tell how it is."""


def is_named(one: Asked) -> bool:
    """Whether a request named its adapter, and so needed neither encoder nor index."""
    return bool(one.wanted)


class FaultRun:
    """One fault under traffic.

    Args:
        traffic: that runs.
    """

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.struck_s = self.healed_s = traffic.now_s

    @property
    def asked(self) -> list[Asked]:
        """Since the fault."""
        return [one for one in self.traffic.history.asked if one.end_s >= self.struck_s]

    @property
    def changed(self) -> list[Changed]:
        """Since the fault."""
        return [one for one in self.traffic.history.changed if one.end_s >= self.struck_s]

    @property
    def failed_named(self) -> list[Asked]:
        """Requests that named their adapters and failed, since the fault."""
        return [one for one in self.traffic.history.failed(self.struck_s) if is_named(one)]

    @property
    def recovery_s(self) -> float:
        """From the healing until the last failure of a request or a change that began before all went well."""
        ends = [one.end_s for one in self.traffic.history.failed(self.healed_s)]
        ends += [one.end_s for one in self.changed if one.code != OK and one.end_s >= self.healed_s]
        return max((end_s - self.healed_s for end_s in ends), default=0.0)

    def strikes(self) -> None:
        """From now on things may fail."""
        self.struck_s = self.healed_s = self.traffic.now_s

    def heals(self) -> None:
        """From now on the system has to recover by itself."""
        self.healed_s = self.traffic.now_s

    async def has_lasted(self) -> None:
        """Returns when enough requests of both kinds and a change have begun in the fault and ended."""
        since_s = self.traffic.now_s
        await self._until(lambda: self._ended(since_s, is_well=False), "nothing ends during the fault")

    async def is_well(self) -> None:
        """Returns when requests of both kinds and changes that have begun after the healing have succeeded."""
        await self._until(lambda: self._ended(self.healed_s, is_well=True), "it does not recover")

    def row(self, fault: str, bound: str) -> Row:
        """What it cost."""
        codes = Counter(one.code for one in self.asked)
        codes.update(f"{one.action} {one.code}" for one in self.changed)
        failed = len(self.traffic.history.failed(self.struck_s))
        lost = len(self.traffic.history.lost)
        return Row(fault, len(self.asked), failed, lost, round(self.recovery_s, 1), dict(codes), bound)

    def _ended(self, since_s: float, *, is_well: bool) -> bool:
        ended: Sequence[Asked | Changed] = [
            *(one for one in self.traffic.history.asked if one.start_s >= since_s),
            *(one for one in self.traffic.history.changed if one.start_s >= since_s),
        ]
        kinds = Counter(
            one.action if isinstance(one, Changed) else is_named(one) for one in ended if one.code == OK or not is_well
        )
        return min(kinds[True], kinds[False]) >= ENOUGH and kinds["upload"] >= 1

    async def _until(self, condition: Callable[[], bool], told: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():  # no event tells
            assert time.monotonic() < deadline, (told, self.row("", "").codes)
            await asyncio.sleep(0.1)


@asynccontextmanager
async def under_traffic(address: str, tenants: Sequence[Tenant]) -> AsyncIterator[FaultRun]:
    """Traffic that goes well when the block begins. At its end all of the history must be in order."""
    traffic = Traffic(address, tenants, CODES)
    try:
        await traffic.set_up()
        async with traffic.running():
            run = FaultRun(traffic)
            await run.is_well()
            run.strikes()
            yield run
        assert list(traffic.history.complaints()) == []
    finally:
        await traffic.close()
