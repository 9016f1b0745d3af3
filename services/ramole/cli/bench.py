"""`bench`: measurements beside the rivals, as ratios."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ramole.cli._checks import check_device
from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, connect, resolved, run, told
from ramole.cli._extras import needing
from ramole.cli._output import add_row, note, progress, say, say_json, show_table, table_of

bench_app = typer.Typer(help="Measurements beside the rivals, as ratios.", no_args_is_help=True)


@bench_app.command("executor")
@needing("lab")
def bench_executor(
    quick: Annotated[bool, typer.Option("--quick", help="The summary's cases only, in minutes.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads for everybody.", min=1)] = 1,
    cases: Annotated[Path | None, typer.Option(help="Append each case to this JSON-lines file as it ends.")] = None,
    base: Annotated[str, typer.Option(help="Instead: a real base, a folder or a GGUF file, with 16 adapters.")] = "",
    as_json: AsJson = False,
) -> None:
    """Measure the engine beside its rivals: interleaved rounds, medians, ratios."""
    from ramole.lab.bench.executor.run import run_base_bench, run_executor_bench

    def record(case: dict[str, Any]) -> None:
        if cases is not None:
            with cases.open("a", encoding="utf-8") as file:
                file.write(json.dumps(case) + "\n")

    with told(), _spinner() as tell:
        check_device(device)
        run_it = partial(run_base_bench, base) if base else run_executor_bench
        result = run_it(quick=quick, device=device, threads=threads, progress=tell, record=record)
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
    soak: Annotated[bool, typer.Option("--soak", help="Instead: what grows under steady load.")] = False,
    minutes: Annotated[float, typer.Option(help="How long to soak.", min=0.2)] = 15.0,
    as_json: AsJson = False,
) -> None:
    """Measure the front door: overhead, streams beside bare servers, fairness, load, refusals, tracing."""
    from ramole.lab.bench.serve.options import SoakCase
    from ramole.lab.bench.serve.run import run_serve_bench
    from ramole.lab.bench.serve.soak import run_soak

    with told(), _spinner() as tell:
        if soak:
            result = run_soak(SoakCase(minutes=minutes), progress=tell)
        else:
            result = run_serve_bench(quick=quick, progress=tell)
    _print(result, as_json)


@bench_app.command("load")
@needing("lab")
def bench_load(
    prompts: Annotated[Path, typer.Argument(help="A file of prompts, in any form that samples may have.")],
    adapter: Annotated[
        list[str] | None, typer.Option(help="Name one in each request, several in turn; default: they are routed.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 8,
    rate: Annotated[float, typer.Option(help="Instead: requests per second, arriving by chance.", min=0)] = 0.0,
    seconds: Annotated[float, typer.Option(help="How long.", min=1)] = 30.0,
    max_tokens: Annotated[int, typer.Option(help="Of each answer.", min=1)] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.", min=0.1)] = 60.0,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Put load on a system that runs: requests and tokens per second, latencies, errors."""
    from ramole.core.samples import read_samples
    from ramole.lab.bench.load import LoadOptions, run_load

    async def main(tell: Callable[[str], None]) -> dict[str, Any]:
        options = LoadOptions(
            read_samples(prompts, field="prompts").texts,
            tuple(adapter or ()),
            concurrency=concurrency,
            rate=rate,
            seconds=seconds,
            max_tokens=max_tokens,
            timeout_s=timeout,
        )
        async with connect(address) as client:
            return await run_load(client, options, progress=tell)

    with _spinner() as tell:
        result = run(lambda: main(tell))
    _print(result, as_json)
    if not as_json:
        say("  ".join(f"{code} {count}" for code, count in sorted(result["codes"].items())))


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


@bench_app.command("chaos")
@needing("lab")
def bench_chaos(
    plan: Annotated[Path, typer.Option(help="YAML file of two tenants with their keys and adapters.")],
    seconds: Annotated[float, typer.Option(help="How long to ask, while you break things.", min=1)] = 60.0,
    deadline: Annotated[float, typer.Option(help="Seconds for each request, with its retries.", min=0.1)] = 10.0,
    retries: Annotated[int, typer.Option(help="Of each request.", min=0, max=10)] = 1,
    changes: Annotated[bool, typer.Option(help="Also upload and revoke adapters.")] = True,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Keep two tenants asking on your own system while you break it, and check every answer.

    Exit code 1 when a promise was broken: a wrong answer, a lost upload, another tenant's adapter. An error with a
    documented code, in time, breaks none.
    """
    from ramole.lab.chaos.plan import read_plan
    from ramole.lab.chaos.run import run_chaos

    with told(), _spinner() as tell:
        server = resolved(address)
        tenants = read_plan(plan)
        result = asyncio.run(
            run_chaos(
                server.address,
                tenants,
                seconds,
                ca_file=server.ca,
                deadline_s=deadline,
                retries=retries,
                changes=changes,
                tell=tell,
            )
        )
    if as_json:
        say_json(result)
    else:
        _print_chaos(result)
    if result["complaints"]:
        raise typer.Exit(1)


def _print_chaos(result: dict[str, Any]) -> None:
    table = table_of("second", "requests", "changes")
    for row in result["by_second"]:
        add_row(table, str(row["second"]), *(_codes(row[kind]) for kind in ("requests", "changes")))
    show_table(table)
    say(
        f"{result['requests']} requests, {result['failed']} failed; {result['changes']} changes, "
        f"{result['failed_changes']} failed; {result['lost']} uploads lost"
    )
    for complaint, count in Counter(result["complaints"]).items():
        say(f"{count} x {complaint}")
    say(f"{len(result['complaints'])} complaints")


def _codes(codes: dict[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))


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
