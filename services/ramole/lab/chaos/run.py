"""The traffic on a system that its owner breaks meanwhile, and what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ramole.lab.chaos.history import OK, History
from ramole.lab.chaos.traffic import Tenant, Traffic
from ramole.transport.errors import CODES

DOCUMENTED = frozenset(kind.reason() for kind in CODES)


async def run_chaos(
    address: str,
    tenants: Sequence[Tenant],
    seconds: float,
    *,
    ca_file: str | Path = "",
    deadline_s: float = 10.0,
    retries: int = 1,
    changes: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Uploads the tenants' adapters, asks for `seconds`, looks through the repository, and reports.

    Args:
        address: of the public port.
        ca_file: PEM, of a server with TLS; '' = without.
        deadline_s, retries: of each request.
        changes: whether adapters are uploaded and revoked meanwhile; some of those uploaded stay there.
        tell: is told what goes on.

    Raises:
        RamoleError: the system was not well when it began.
    """
    traffic = Traffic(
        address, tenants, DOCUMENTED, deadline_s=deadline_s, retries=retries, changes=changes, ca_file=ca_file
    )
    try:
        tell("uploading, and asking each prompt alone")
        await traffic.set_up()
        since_s = traffic.now_s
        tell(f"asking for {seconds:.0f} s: break something")
        async with traffic.running():
            await asyncio.sleep(seconds)
            tell("looking through the repository")
        return report(traffic.history, since_s)
    finally:
        await traffic.close()


def report(history: History, since_s: float = 0.0) -> dict[str, Any]:
    """What a history comes to.

    Args:
        since_s: the beginning, on the clock of the history.

    Returns:
        Counts, ``complaints``, and ``by_second``: for each second since the beginning in which something ended, how
        often which code came, of requests and of changes.
    """
    by_second: defaultdict[int, dict[str, Counter[str]]] = defaultdict(
        lambda: {"requests": Counter(), "changes": Counter()}
    )
    for kind, ended in (("requests", history.asked), ("changes", history.changed)):
        for one in ended:
            by_second[int(one.end_s - since_s)][kind][one.code] += 1
    failed = history.failed()
    times = [one.end_s - since_s for one in failed]
    return {
        "requests": len(history.asked),
        "failed": len(failed),
        "changes": len(history.changed),
        "failed_changes": sum(one.code != OK for one in history.changed),
        "lost": len(history.lost),
        "first_failure_s": round(min(times), 1) if times else None,
        "last_failure_s": round(max(times), 1) if times else None,
        "codes": history.by_code(),
        "complaints": list(history.complaints()),
        "by_second": [
            {"second": second, **{kind: dict(codes) for kind, codes in by_second[second].items()}}
            for second in sorted(by_second)
        ],
    }
