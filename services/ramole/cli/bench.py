"""`bench`: measurements beside the rivals, as ratios."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ramole.cli._checks import check_device
from ramole.cli._common import AsJson, told
from ramole.cli._extras import needing
from ramole.cli._output import note, progress, say, say_json

bench_app = typer.Typer(help="Measurements beside the rivals, as ratios.", no_args_is_help=True)


@bench_app.command("executor")
@needing("lab")
def bench_executor(
    quick: Annotated[bool, typer.Option("--quick", help="The summary's cases only, in minutes.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads for everybody.", min=1)] = 1,
    cases: Annotated[Path | None, typer.Option(help="Append each case to this JSON-lines file as it ends.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the engine beside its rivals: interleaved rounds, medians, ratios."""
    from ramole.lab.bench.executor.run import run_executor_bench

    def record(case: dict[str, Any]) -> None:
        if cases is not None:
            with cases.open("a", encoding="utf-8") as file:
                file.write(json.dumps(case) + "\n")

    with told(), _spinner() as tell:
        check_device(device)
        result = run_executor_bench(quick=quick, device=device, threads=threads, progress=tell, record=record)
    _print(result, as_json)


@bench_app.command("repository")
@needing("lab")
def bench_repository(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller fleets, in minutes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure store, index and servers with thousands of adapters; search beside numpy and faiss."""
    from ramole.lab.bench.repository.run import run_repository_bench

    with told(), _spinner() as tell:
        result = run_repository_bench(quick=quick, progress=tell)
    _print(result, as_json)
    if not as_json:
        for name, reason in result["not_measured"].items():
            note(f"{name}: {reason}")


@bench_app.command("serve")
@needing("lab")
def bench_serve(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds, in under three minutes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the front door: overhead, streams beside bare servers, fairness, latency under load, refusals."""
    from ramole.lab.bench.serve.run import run_serve_bench

    with told(), _spinner() as tell:
        result = run_serve_bench(quick=quick, progress=tell)
    _print(result, as_json)


@bench_app.command("fleet")
@needing("lab")
def bench_fleet(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter, in under half a minute.")] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate up to 256 executors: placement beside random, power of two and bounded hashing; scaling."""
    from ramole.lab.bench.fleet.run import run_fleet_bench

    with told(), _spinner() as tell:
        result = run_fleet_bench(quick=quick, progress=tell)
    _print(result, as_json)


@contextmanager
def _spinner() -> Iterator[Callable[[str], None]]:
    """Tells on stderr what is being measured."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    with progress(SpinnerColumn(), TimeElapsedColumn()) as display:
        task = display.add_task("starting", total=None)
        yield lambda name: display.update(task, description=name)


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(result)
        return
    for name, value in result["summary"].items():
        say(f"{name:32s} {'not measured' if value is None else f'{value:.2f}'}")
