"""`serve` and `demo`: the whole system."""

from __future__ import annotations

import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated

import typer

from ramole.cli._common import AsJson, bar, leave, run, told
from ramole.cli._extras import needing
from ramole.cli._output import say, say_json, say_piece, show_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ramole.app import System
    from ramole.core.settings import Settings


def _starting(local: bool) -> str:
    return "starting the five services" + (" in this process" if local else " on Ray")


@asynccontextmanager
async def _system(settings: Settings, *, local: bool) -> AsyncIterator[System]:
    """The running system; stopped, with everything it started, on the way out."""
    from ramole.app import start, start_local

    with bar(_starting(local)):
        system = await (start_local(settings) if local else start(settings))
    try:
        yield system
    finally:
        with bar("stopping"):
            await system.stop()


@needing("serve")
def serve(
    local: Annotated[bool, typer.Option("--local", help="All services in this process, without Ray.")] = False,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="A Ray that runs, auto = this machine's; else a private one.")
    ] = "",
) -> None:
    """Run the system until it is told to stop (Ctrl-C or SIGTERM).

    Settings come from the YAML file that RAMOLE_CONFIG names and from RAMOLE_* variables.
    """
    from ramole.app import load_settings, resolve, start, start_local
    from ramole.app import run as run_until_stopped

    if local and address:
        raise typer.BadParameter("--local needs no Ray", param_hint="--address")

    async def main() -> None:
        with ExitStack() as until_ready:
            until_ready.enter_context(bar(_starting(local)))

            def is_ready(system: System) -> None:
                until_ready.close()
                http = f", HTTP on {system.http_address}" if system.http_address else ""
                say(f"ramole serves {settings.base_id} on {system.address}{http}")

            settings = resolve(load_settings(**({"ray": {"address": address}} if address else {})))
            await run_until_stopped(start_local if local else start, settings, is_ready)
        # A start that was cut off goes on in its threads: in Ray's, which would write into the folder that has just
        # been removed, or in one that waits for a store that does not answer, and that the loop would wait for.
        leave()

    run(main)


@needing("serve")
def serve_config(
    rayservice: Annotated[
        str, typer.Option(metavar="NAME", help="As a patch of the RayService of this name, for Kustomize.")
    ] = "",
) -> None:
    """Write the configuration by which `serve deploy` or KubeRay runs the system on a cluster, as YAML.

    Settings come from the YAML file that RAMOLE_CONFIG names and from RAMOLE_* variables.
    """
    from ramole.app import load_settings
    from ramole.app.serve_config import as_yaml, rayservice_patch
    from ramole.app.serve_config import serve_config as write_serve_config

    with told():
        config = write_serve_config(load_settings())
        say_piece(as_yaml(rayservice_patch(rayservice, config) if rayservice else config))


@needing("serve")
def demo(
    as_json: AsJson = False,
    local: Annotated[bool, typer.Option("--local", help="All services in this process, without Ray.")] = False,
) -> None:
    """Start everything, upload real adapters, ask a mixed batch of plain prompts, and show what happened."""
    from ramole.app import resolve
    from ramole.app.scratch import Scratch
    from ramole.core.settings import GatewaySettings, HttpSettings, PlainSettings, PublicServerSettings
    from ramole.demo import DemoReport, answers_table, mask_picture, run_demo
    from ramole.zoo.catalog import load_zoo

    started_s = time.monotonic()

    async def main(folder: Path) -> DemoReport:
        # A world of its own: whatever the environment configures, the demo leaves it alone.
        gateway = GatewaySettings(server=PublicServerSettings(port=0), http=HttpSettings(port=None))
        settings = resolve(PlainSettings(data_dir=folder / "data", gateway=gateway))
        async with _system(settings, local=local) as system:
            return await run_demo(system.address, load_zoo(), bar, started_s, compares_presets=not as_json)

    scratch = Scratch.make(Path(gettempdir()))
    try:
        report = run(lambda: main(scratch.path))
    finally:
        scratch.remove()
    if as_json:
        say_json(report.summary())
        return
    show_table(answers_table("A mixed batch; no prompt names an adapter", report.mixed))
    say_piece(f"{mask_picture(report.fullest_step, report.names)}\n")
    for when, answers in (("before", report.unseen_before), ("after", report.unseen_after)):
        show_table(answers_table(f"{report.unseen_adapter}, {when} its upload", answers))
    figures = report.summary()
    presets = ", ".join(f"{name} {count}" for name, count in report.by_preset.items())
    say(f"The mixed batch under every preset, right answers of {figures['prompts']}: {presets}.")
    say(
        f"{figures['correct']} of {figures['prompts']} right; the base model alone "
        f"{figures['base_correct']}; unseen adapter {figures['unseen_before']:.0%} before, "
        f"{figures['unseen_after']:.0%} after its upload; up to {figures['max_batch']} requests and "
        f"{figures['max_unique_adapters']} unique adapters in one step; {figures['seconds']} s in all."
    )
