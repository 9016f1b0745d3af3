"""`bench`: measurements beside the peers, as ratios."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from ramole.cli._common import AsJson

bench_app = typer.Typer(help="Measurements beside the peers, as ratios.", no_args_is_help=True)


@bench_app.command("executor")
def bench_executor(
    quick: Annotated[bool, typer.Option("--quick", help="The summary's cases only, in minutes.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads for everybody.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure the engine beside its peers: interleaved rounds, medians, ratios."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ramole.bench.executor import run_executor_bench

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        result = run_executor_bench(
            quick=quick,
            device=device,
            threads=threads,
            progress=lambda name: progress.update(task, description=name),
        )
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result["summary"].items():
        print(f"{name:32s} {'not measured' if value is None else f'{value:.2f}'}")
