"""`zoo`: the self-made world."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ramole.cli._common import AsJson, run
from ramole.cli._extras import needing
from ramole.cli._output import progress, say, say_json

zoo_app = typer.Typer(help="The self-made world: tasks, a base model, adapters, a router.", no_args_is_help=True)


@zoo_app.command("build")
@needing("lab")
def zoo_build(
    out: Annotated[Path, typer.Option(help="Folder for the result; a build that was stopped there goes on.")],
    preset: Annotated[str, typer.Option(help="full (hundreds of tasks), shipped (48 of them) or tiny.")] = "full",
    seed: Annotated[int, typer.Option(help="The same seed gives the same zoo.")] = 0,
    threads: Annotated[
        int, typer.Option(help="Torch threads; as many processes train adapters.", min=1)
    ] = os.cpu_count() or 1,
    as_json: AsJson = False,
) -> None:
    """Make a zoo from nothing: texts, tokenizer, base model, adapters, router. No download; full takes half an hour."""
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TimeRemainingColumn

    from ramole.core.errors import InvalidInput
    from ramole.lab.factory.build import build
    from ramole.lab.factory.recipes import PRESETS
    from ramole.zoo.catalog import Zoo

    async def main() -> Zoo:
        if preset not in PRESETS:
            raise InvalidInput(f"no preset {preset!r}", field="--preset", remedy=f"use one of {', '.join(PRESETS)}")
        with progress(BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), is_transient=False) as display:
            bars: dict[str, TaskID] = {}

            def log(stage: str, fraction: float) -> None:
                if stage not in bars:
                    bars[stage] = display.add_task(stage, total=1.0)
                display.update(bars[stage], completed=fraction)

            return build(out, recipe=PRESETS[preset], seed=seed, threads=threads, log=log)

    zoo = run(main)
    own = sum(adapter.exact_match for adapter in zoo.adapters) / len(zoo.adapters)
    base = sum(adapter.base_exact_match for adapter in zoo.adapters) / len(zoo.adapters)
    if as_json:
        say_json({"adapters": len(zoo.adapters), "exact_match": round(own, 4), "base_exact_match": round(base, 4)})
        return
    say(f"{len(zoo.adapters)} adapters of {zoo.base_id} in {out}: exact match {own:.3f}, of the base alone {base:.3f}")
    say(f"more about it: ramole evaluate --zoo {out}")
