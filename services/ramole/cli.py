"""The command line. Parses, calls, prints; everything it does can be done from Python as well."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ramole.core.composition import PRESETS, Composition
from ramole.core.errors import InvalidInput, RamoleError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ramole.app import System
    from ramole.client import RamoleClient
    from ramole.core.settings import Settings

T = TypeVar("T")

app = typer.Typer(
    help="Plain prompt in, the right LoRA adapters found, mixed and applied, in one heterogeneous batch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
zoo_app = typer.Typer(help="The self-made world that ships with the package.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")
bench_app = typer.Typer(help="Measurements beside the peers, as ratios.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Address = Annotated[str, typer.Option(help="Public port of the server.", envvar="RAMOLE_ADDRESS")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DEFAULT_ADDRESS = "127.0.0.1:50051"


def _run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine; errors that a user can act on become one line and exit code 1."""
    try:
        return asyncio.run(main())
    except (RamoleError, ValidationError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def _bar(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, gone when it is done; `total` None = unknown."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _starting(local: bool) -> str:
    return "starting the five services" + (" in this process" if local else " on Ray")


@asynccontextmanager
async def _system(settings: Settings, *, local: bool) -> AsyncIterator[System]:
    """The running system; stopped, with everything it started, on the way out."""
    from ramole.app import start, start_local

    with _bar(_starting(local)):
        system = await (start_local(settings) if local else start(settings))
    try:
        yield system
    finally:
        with _bar("stopping"):
            await system.stop()


@app.command()
def serve(
    local: Annotated[bool, typer.Option("--local", help="All services in this process, without Ray.")] = False,
) -> None:
    """Run the system until it is told to stop (Ctrl-C or SIGTERM).

    Settings come from the YAML file that RAMOLE_CONFIG names and from RAMOLE_* variables.
    """
    from ramole.app import resolve, run, start, start_local
    from ramole.core.settings import Settings

    async def main() -> None:
        with ExitStack() as until_ready:
            until_ready.enter_context(_bar(_starting(local)))

            def is_ready(system: System) -> None:
                until_ready.close()
                print(f"ramole serves {settings.base_id} on {system.address}", flush=True)

            settings = resolve(Settings())
            await run(start_local if local else start, settings, is_ready)

    _run(main)


@app.command()
def demo(
    as_json: AsJson = False,
    local: Annotated[bool, typer.Option("--local", help="All services in this process, without Ray.")] = False,
) -> None:
    """Start everything, upload real adapters, ask a mixed batch of plain prompts, and show what happened."""
    from ramole.app import resolve
    from ramole.core.settings import GatewaySettings, ServerSettings, Settings
    from ramole.demo import DemoReport, answers_table, mask_picture, run_demo
    from ramole.zoo.catalog import load_zoo

    started_s = time.monotonic()

    async def main(folder: str) -> DemoReport:
        # A world of its own: whatever the environment configures, the demo leaves it alone.
        gateway = GatewaySettings(server=ServerSettings(port=0))
        settings = resolve(Settings(data_dir=Path(folder), base_model="zoo", base_id="", gateway=gateway))
        async with _system(settings, local=local) as system:
            return await run_demo(system.address, load_zoo(), _bar, started_s, compares_presets=not as_json)

    with TemporaryDirectory(prefix="ramole-demo-") as folder:
        report = _run(lambda: main(folder))
    if as_json:
        print(json.dumps(report.summary()))
        return
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(answers_table("A mixed batch; no prompt names an adapter", report.mixed))
    print(mask_picture(report.fullest_step, report.names))
    for when, answers in (("before", report.unseen_before), ("after", report.unseen_after)):
        console.print(answers_table(f"{report.unseen_adapter}, {when} its upload", answers))
    figures = report.summary()
    presets = ", ".join(f"{name} {count}" for name, count in report.by_preset.items())
    console.print(f"The mixed batch under every preset, right answers of {figures['prompts']}: {presets}.")
    console.print(
        f"[bold]{figures['correct']} of {figures['prompts']} right[/bold]; the base model alone "
        f"{figures['base_correct']}; unseen adapter {figures['unseen_before']:.0%} before, "
        f"{figures['unseen_after']:.0%} after its upload; up to {figures['max_batch']} requests and "
        f"{figures['max_unique_adapters']} unique adapters in one step; {figures['seconds']} s in all."
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Plain prompt.")],
    adapter: Annotated[
        list[str] | None, typer.Option(help="Use this adapter instead of retrieval; may be given several times.")
    ] = None,
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "",
    k: Annotated[int | None, typer.Option(help="Adapters to retrieve; 0 = the base model alone.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 = greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the random numbers; the same seed, the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Cut the answer before this text.")] = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Answer a prompt, streaming; then say which adapters answered."""
    from ramole.client import Chunk, RamoleClient, Usage
    from ramole.core.sampling import Sampling

    async def main() -> None:
        text, used = "", []
        async with RamoleClient(address) as client:
            composition = await _composition(client, preset, k)
            events = client.generate(
                prompt,
                adapters=adapter or (),
                composition=composition,
                sampling=Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop or ())),
            )
            async for event in events:
                if isinstance(event, Chunk):
                    text += event.text
                    if not as_json:
                        print(event.text, end="", flush=True)
                elif isinstance(event, Usage):
                    used = [
                        {"adapter": str(a.ref), "similarity": a.similarity, "mean_weight": a.mean_weight}
                        for a in event.adapters
                    ]
        if as_json:
            print(json.dumps({"text": text, "adapters": used}))
            return
        print()
        for a in used:
            line = f"  {a['adapter']}  similarity {a['similarity']:.2f}  weight {a['mean_weight']:.2f}"
            Console(stderr=True).print(line, style="dim", highlight=False)

    _run(main)


async def _composition(client: RamoleClient, preset: str, k: int | None) -> Composition | None:
    """What --preset and --k ask for; None = the server's default."""
    if not preset and k is None:
        return None
    if preset and preset not in PRESETS:
        raise InvalidInput(f"no preset {preset!r}", field="--preset", remedy=f"use one of {', '.join(PRESETS)}")
    composition = PRESETS[preset] if preset else (await client.describe()).default_composition
    return composition if k is None else replace(composition, k=k)


@app.command()
def route(
    prompt: Annotated[str, typer.Argument(help="Plain prompt.")],
    k: Annotated[int, typer.Option(help="How many adapters; 0 = the server's default.")] = 0,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Say which adapters a prompt would get, without generating."""
    from ramole.client import RamoleClient, Route

    async def main() -> Route:
        async with RamoleClient(address) as client:
            return await client.route(prompt, k=k)

    found = _run(main)
    if as_json:
        print(json.dumps([{"adapter": str(a.ref), "similarity": a.similarity} for a in found.adapters]))
        return
    for a in found.adapters:
        print(f"{a.similarity:+.3f}  {a.ref}")


@app.command()
def upload(
    folder: Annotated[Path, typer.Argument(help="A PEFT folder.", exists=True, file_okay=False)],
    samples: Annotated[
        Path, typer.Option(help="Typical inputs: a JSON list, or one a line.", exists=True, dir_okay=False)
    ],
    name: Annotated[str, typer.Option(help="name or tenant/name; default: the folder's name.")] = "",
    base_model: Annotated[str, typer.Option(help="Default: as adapter_config.json says.")] = "",
    public: Annotated[bool, typer.Option("--public", help="Other tenants may retrieve it.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Upload one adapter; it is used by the next fitting prompt."""
    from ramole.client import RamoleClient, Uploaded

    async def main() -> Uploaded:
        async with RamoleClient(address) as client:
            with _bar(f"uploading {folder.name}"):
                return await client.upload(
                    folder, _read_samples(samples), adapter=name, base_model=base_model, is_public=public
                )

    done = _run(main)
    record = done.record
    print(
        f"{record.ref} {'is live' if done.is_created else 'was there already'}: rank {record.rank}, "
        f"{len(record.modules)} modules, {record.num_bytes} bytes, norm {record.norm:.3g}, "
        f"{record.num_samples} samples, sha256 {record.ref.digest[:12]}"
    )


def _read_samples(path: Path) -> list[str]:
    """A JSON list of strings, or the lines of a text file that are not empty."""
    text = path.read_text()
    if not text.lstrip().startswith("["):
        return [line for line in text.splitlines() if line.strip()]
    try:
        samples = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path.name} is not JSON: {error}", field="--samples", remedy="give a list") from None
    if not all(isinstance(sample, str) for sample in samples):
        raise InvalidInput(f"{path.name} holds more than strings", field="--samples", remedy="give a list of strings")
    return list(samples)


@app.command()
def adapters(
    delete: Annotated[str, typer.Option(help="Delete this adapter; running requests finish.")] = "",
    revoke: Annotated[str, typer.Option(help="Delete this adapter and abort running requests that use it.")] = "",
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List the repository, or remove an adapter from it."""
    from ramole.client import AdapterRecord, RamoleClient

    async def main() -> list[AdapterRecord]:
        async with RamoleClient(address) as client:
            if delete:
                for ref in await client.delete(delete):
                    print(f"{ref} is deleted")
            if revoke:
                for ref in (await client.revoke(revoke)).refs:
                    print(f"{ref} is revoked")
            return [] if delete or revoke else [record async for record in client.adapters()]

    records = _run(main)
    if as_json:
        rows = [{"adapter": str(r.ref), "digest": r.ref.digest, "rank": r.rank, "bytes": r.num_bytes} for r in records]
        print(json.dumps(rows))
    elif records:
        table = Table(
            Column("adapter", no_wrap=True), "rank", "modules", "bytes", "norm", "samples", "created", "sha256"
        )
        for r in records:
            table.add_row(
                str(r.ref),
                str(r.rank),
                str(len(r.modules)),
                str(r.num_bytes),
                f"{r.norm:.3g}",
                str(r.num_samples),
                f"{r.created_at:%Y-%m-%d %H:%M}",
                r.ref.digest[:12],
            )
        Console(width=None if sys.stdout.isatty() else 170).print(table)
    elif not (delete or revoke):
        print("the repository is empty: ramole upload FOLDER --samples FILE", file=sys.stderr)


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
