"""`doctor`: what is wrong with a server, on its own machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ramole.cli._common import AsJson, access, run, waiting
from ramole.cli._extras import needing
from ramole.cli._output import say, say_json, say_verdict

if TYPE_CHECKING:
    from ramole.app.doctor import Checked


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
        return done

    found = run(main)
    num_failed = sum(checked.finding.verdict is Verdict.FAILED for checked in found)
    if as_json:
        say_json([{"check": checked.name, **asdict(checked.finding)} for checked in found])
    else:
        say(f"{num_failed} failed" if num_failed else "nothing has failed")
    if num_failed:
        raise typer.Exit(1)


def _line(checked: Checked) -> str:
    found = checked.finding
    where = f"{found.field}: " if found.field else ""
    return f"{where}{found.says}" + (f" ({found.remedy})" if found.remedy else "")
