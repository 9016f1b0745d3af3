"""`zoo`: the self-made world that ships with the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

zoo_app = typer.Typer(help="The self-made world that ships with the package.", no_args_is_help=True)


@zoo_app.command("build")
def zoo_build(
    out: Annotated[Path, typer.Option(help="Folder for the result; a build that was stopped there goes on.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same zoo.")] = 0,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = os.cpu_count() or 1,
) -> None:
    """Make the zoo from nothing: texts, tokenizer, base model, adapters, router. Takes minutes."""
    import torch
    from rich.progress import Progress

    from ramole.zoo.build import build

    torch.set_num_threads(threads)
    with Progress(console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def log(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0)
            progress.update(tasks[stage], completed=fraction)

        zoo = build(out, seed=seed, log=log)
    print(f"{len(zoo.adapters)} adapters of {zoo.base_id} in {out}")
