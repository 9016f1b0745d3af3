"""`train`: the learned parts, for any base model and any adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ramole.cli._common import AsJson, run
from ramole.core.errors import InvalidInput

if TYPE_CHECKING:
    from ramole.training.router_job import RouterAdapter

train_app = typer.Typer(help="Train the learned parts.", no_args_is_help=True)


@train_app.command("router")
def train_router(
    out: Annotated[Path, typer.Option(help="Folder for the RouterLoRA; a training that was stopped there goes on.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of a causal LM; default: the zoo's.")] = "",
    base_id: Annotated[str, typer.Option(help="The adapters' name for it; default: as they say.")] = "",
    adapters: Annotated[
        Path | None, typer.Option(help="Folder of PEFT folders with samples.json and prompts.json.", file_okay=False)
    ] = None,
    zoo: Annotated[Path | None, typer.Option(help="A folder that `zoo build` made: its training tasks.")] = None,
    encoder: Annotated[str, typer.Option(help="Of the retriever that will serve.")] = "minilm",
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)] = 300,
    k: Annotated[int, typer.Option(help="Candidates of a prompt, before dropout.", min=2)] = 3,
    rank: Annotated[int, typer.Option(help="Q, the rank of the router.", min=1)] = 8,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 5e-3,
    dropout: Annotated[float, typer.Option(help="Probability of leaving a candidate out.", min=0, max=1)] = 0.5,
    random_share: Annotated[float, typer.Option(help="How often candidates are random.", min=0, max=1)] = 0.5,
    hide_own: Annotated[float, typer.Option(help="How often the prompt's own adapter is hidden.", min=0, max=1)] = 0.0,
    groups: Annotated[int, typer.Option(help="Tasks of a step.", min=1)] = 6,
    group_size: Annotated[int, typer.Option(help="Prompts of each task in a step.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="The same seed gives the same router.")] = 0,
    workers: Annotated[int, typer.Option(help="More than 1: Ray Train starts so many.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda; with Ray, cuda gives each worker a GPU.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Train a RouterLoRA; base and adapters stay as they are.

    The result is an ordinary PEFT LoRA folder with router.json; serve with it by RAMOLE_EXECUTOR__ROUTER.
    """

    async def main() -> None:
        import torch
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from ramole.training.ray_workers import run_router_job_on_ray
        from ramole.training.router import RouterRecipe, StepLog
        from ramole.training.router_job import RouterJob, run_router_job
        from ramole.zoo.catalog import load_zoo

        torch.set_num_threads(threads)
        if adapters is not None and not base:
            raise InvalidInput("whose adapters are they?", field="--base", remedy="give the folder of their base model")
        if adapters is None and base:
            raise InvalidInput("a base, but no adapters", field="--adapters", remedy="give a folder of PEFT folders")
        recipe = RouterRecipe(
            steps=steps,
            k=k,
            random_share=random_share,
            dropout=dropout,
            num_groups=groups,
            group_size=group_size,
            lr=lr,
            hide_own=hide_own,
        )
        job = RouterJob(
            base=base or str(load_zoo(zoo).base_path),
            base_id=base_id,
            adapters=_experts(adapters, zoo),
            out=out,
            recipe=recipe,
            rank=rank,
            seed=seed,
            encoder=encoder,
            device=device,
        )
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("training", total=steps if workers == 1 else None)

            def log(step: StepLog) -> None:
                text = f"loss {step.loss:.3f}, gate entropy {step.gate_entropy:.3f}"
                progress.update(task, completed=step.step, description=text)

            if workers > 1:
                manifest = run_router_job_on_ray(job, num_workers=workers, use_gpu=device != "cpu")
            else:
                manifest = run_router_job(job, log=log)
        if as_json:
            print(json.dumps(manifest))
            return
        figures = manifest["figures"]
        print(
            f"{out}: rank {rank}, {len(job.adapters)} adapters, loss {figures['loss']}, "
            f"gate entropy {figures['gate_entropy']}, {figures['seconds']} s"
        )

    run(main)


def _experts(adapters: Path | None, zoo: Path | None) -> tuple[RouterAdapter, ...]:
    from ramole.evaluation.subject import peft_folders, read_entry
    from ramole.training.router_job import RouterAdapter
    from ramole.zoo.catalog import Split, load_zoo

    if adapters is not None:
        found = [(e.name, e.path, e.samples, e.train) for e in map(read_entry, peft_folders(adapters))]
    else:
        found = [(a.name, a.path, a.samples, a.train) for a in load_zoo(zoo).of(Split.TRAIN)]
    return tuple(
        RouterAdapter(name, path.absolute(), samples, tuple((e.prompt, e.answer) for e in train))
        for name, path, samples, train in found
    )
