"""`doctor`: what is wrong with a server, on its own machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ramole.cli._common import AsJson, access, run, waiting
from ramole.cli._extras import needing
from ramole.cli._output import add_row, say, say_json, say_verdict, show_table, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from ramole.app.doctor import Checked
    from ramole.executor.memory_plan import Plan


@needing("serve")
def doctor(as_json: AsJson = False) -> None:
    """Look at the settings, models, store, index, ports, keys and certificates of the server of this machine.

    It may run or not, and is not disturbed. `ramole --address HOST:PORT doctor` also asks a server elsewhere, and
    compares the clocks. Exit code 1 when something failed.
    """
    from ramole.app import load_settings
    from ramole.app.doctor import Access, Verdict, examine

    given = access.get()

    async def main() -> list[Checked]:
        done = []
        with waiting("looking"):
            async for checked in examine(load_settings, Access(given.address, given.key, given.ca)):
                done.append(checked)
                if not as_json:
                    say_verdict(checked.finding.verdict, checked.name, _line(checked))
                    if checked.plan is not None:
                        show_table(_table(checked.plan))
        return done

    found = run(main)
    num_failed = sum(checked.finding.verdict is Verdict.FAILED for checked in found)
    if as_json:
        say_json([_told(checked) for checked in found])
    else:
        say(f"{num_failed} failed" if num_failed else "nothing has failed")
    if num_failed:
        raise typer.Exit(1)


def _told(checked: Checked) -> dict[str, Any]:
    told = {"check": checked.name, **asdict(checked.finding)}
    return told if checked.plan is None else told | {"plan": asdict(checked.plan)}


def _table(plan: Plan) -> Table:
    from ramole.executor.memory_plan import shown

    table = table_of("part", "memory", "of what")
    for part in plan.parts:
        add_row(table, part.name, shown(part.num_bytes), part.detail)
    add_row(table, "together", shown(plan.num_bytes), f"of {shown(plan.budget_bytes)}: {plan.where}")
    return table


def _line(checked: Checked) -> str:
    found = checked.finding
    where = f"{found.field}: " if found.field else ""
    return f"{where}{found.says}" + (f" ({found.remedy})" if found.remedy else "")
