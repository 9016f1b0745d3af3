"""`status`: what a running system does at this moment, once or again and again."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, connect, run
from ramole.cli._output import add_row, live_on_terminal, say_json, show_table, table_of
from ramole.core.errors import RamoleError

if TYPE_CHECKING:
    from rich.table import Table

    from ramole.client import Description, RamoleClient

_TIMEOUT_S = 10.0


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until Ctrl-C; also shows rates.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.2)] = 2.0,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Show the queue, the batch, slots, caches and services of a running system.

    With --watch --json, one JSON object a line. Services are told to operators only.
    """

    async def main() -> None:
        async with connect(address) as connected:
            client = connected.with_options(timeout_s=_TIMEOUT_S)
            if watch:
                await _watch(client, every, as_json=as_json)
                return
            seen = await client.describe()
            if as_json:
                say_json(_facts(seen))
            else:
                for table in _tables(seen):
                    show_table(table)

    run(main)


async def _watch(client: RamoleClient, every_s: float, *, as_json: bool) -> None:
    """Until it is interrupted. A server that does not answer is shown as that, and looked at again."""
    before: Description | None = None
    with live_on_terminal(is_off=as_json) as show:
        while True:
            try:
                seen = await client.describe()
            except RamoleError as error:
                if as_json:
                    say_json({"error": str(error)})
                else:
                    show(str(error))
                before = None
            else:
                if as_json:
                    say_json(_facts(seen, before))
                else:
                    show(*_tables(seen, before))
                before = seen
            await asyncio.sleep(every_s)


def rates(now: Description, before: Description | None) -> dict[str, float] | None:
    """Requests and tokens of answers a second between two looks; None where that cannot be told.

    An executor that was replaced, or did not answer one of the times, takes its counts with it, and brings them back.
    """
    if before is None or now.time is None or before.time is None or now.max_running != before.max_running:
        return None
    seconds = (now.time - before.time).total_seconds()
    ended, tokens = now.ended - before.ended, now.tokens_out - before.tokens_out
    if seconds <= 0 or ended < 0 or tokens < 0:
        return None
    return {"requests_per_s": round(ended / seconds, 3), "tokens_per_s": round(tokens / seconds, 3)}


def _facts(seen: Description, before: Description | None = None) -> dict[str, Any]:
    facts = {
        name: getattr(seen, name)
        for name in (
            "time",
            "version",
            "base_model",
            "encoder_id",
            "router",
            "running",
            "max_running",
            "waiting",
            "num_slots",
            "resident_adapters",
            "ended",
            "tokens_out",
        )
    }
    facts["tiers"] = [asdict(tier) for tier in seen.tiers]
    facts["services"] = [asdict(service) for service in seen.services]
    return facts | (rates(seen, before) or {})


def _tables(seen: Description, before: Description | None = None) -> list[Table]:
    load = table_of("ramole " + seen.version, seen.base_model)
    rate = rates(seen, before)
    rows = {
        "running": f"{seen.running} of {seen.max_running}",
        "waiting": str(seen.waiting),
        "adapters on the device": f"{seen.resident_adapters} in {seen.num_slots} slots",
        "requests that ended": f"{seen.ended}" + (f", {rate['requests_per_s']:.1f} a second" if rate else ""),
        "tokens of answers": f"{seen.tokens_out}" + (f", {rate['tokens_per_s']:.1f} a second" if rate else ""),
        "encoder": seen.encoder_id or "nothing is indexed, or the index does not answer",
        "router": seen.router[:12] or "none",
    }
    for name, value in rows.items():
        add_row(load, name, value)
    tables = [load]
    if seen.tiers:
        tiers = table_of("tier", "adapters", "MiB", "hits", "misses")
        for tier in seen.tiers:
            size = f"{tier.num_bytes / 2**20:.1f}"
            add_row(tiers, tier.tier, str(tier.adapters), size, str(tier.hits), str(tier.misses))
        tables.append(tiers)
    if seen.services:
        services = table_of("service", "serving", "replicas")
        for service in seen.services:
            add_row(services, service.name, str(service.serving), str(service.replicas))
        tables.append(services)
    return tables
