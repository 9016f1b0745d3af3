"""`train`: the learned parts, for any base model and any adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramole.cli._checks import check_device
from ramole.cli._common import AsJson, run
from ramole.cli._extras import needing
from ramole.cli._output import progress, say, say_json
from ramole.core.errors import InvalidInput

if TYPE_CHECKING:
    from ramole.embedding.retriever import Retriever
    from ramole.lab.training.router_job import RouterAdapter

train_app = typer.Typer(help="Train the learned parts.", no_args_is_help=True)


@train_app.command("router")
@needing("lab")
def train_router(
    out: Annotated[Path, typer.Option(help="Folder for the RouterLoRA; a training that was stopped there goes on.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of a causal LM; default: the zoo's.")] = "",
    base_id: Annotated[str, typer.Option(help="The adapters' name for it; default: as they say.")] = "",
    adapters: Annotated[
        Path | None, typer.Option(help="Folder of PEFT folders with samples.json and prompts.json.", file_okay=False)
    ] = None,
    zoo: Annotated[Path | None, typer.Option(help="A folder that `zoo build` made: its training tasks.")] = None,
    encoder: Annotated[str, typer.Option(help="Of the retriever that will serve.")] = "minilm",
    retriever: Annotated[str, typer.Option(help="Folder of the trained retriever that will serve.")] = "",
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

    trained = str(Path(retriever).absolute()) if retriever else ""

    async def main() -> None:
        import torch
        from rich.progress import BarColumn, TimeRemainingColumn

        from ramole.app.preflight import check_model
        from ramole.lab.training.ray_workers import run_router_job_on_ray
        from ramole.lab.training.router import RouterRecipe, StepLog
        from ramole.lab.training.router_job import RouterJob, run_router_job
        from ramole.zoo.catalog import load_zoo

        torch.set_num_threads(threads)
        check_device(device)
        if base:
            check_model("--base", base)
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
            retriever=trained,
            device=device,
        )
        with progress(BarColumn(), TimeRemainingColumn()) as display:
            task = display.add_task("training", total=steps if workers == 1 else None)

            def log(step: StepLog) -> None:
                text = f"loss {step.loss:.3f}, gate entropy {step.gate_entropy:.3f}"
                display.update(task, completed=step.step, description=text)

            if workers > 1:
                manifest = run_router_job_on_ray(job, num_workers=workers, use_gpu=device != "cpu")
            else:
                manifest = run_router_job(job, log=log)
        if as_json:
            say_json(manifest)
            return
        figures = manifest["figures"]
        say(
            f"{out}: rank {rank}, {len(job.adapters)} adapters, loss {figures['loss']}, "
            f"gate entropy {figures['gate_entropy']}, {figures['seconds']} s"
        )

    run(main)


@train_app.command("adapter")
@needing("lab")
def train_adapter(
    data: Annotated[
        Path,
        typer.Option(help='Examples, {"prompt", "answer"} or {"messages": [user, assistant]} a line.', dir_okay=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the adapter; a training that was stopped there goes on.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of a causal LM; default: the zoo's.")] = "",
    base_id: Annotated[str, typer.Option(help="What the adapter calls it; default: as --base says.")] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Write prompts by the base's chat template.")] = False,
    rank: Annotated[int, typer.Option(help="Of the LoRA; alpha is twice that.", min=1)] = 8,
    target: Annotated[
        list[str] | None, typer.Option(help="Modules that get one, by name; default: all linear ones but the head.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="At most.", min=1)] = 10,
    patience: Annotated[int, typer.Option(help="Epochs without a better held-out loss before it ends.", min=1)] = 2,
    batch: Annotated[int, typer.Option(help="Examples of a step.", min=1)] = 8,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-4,
    held_out: Annotated[float, typer.Option(help="Share of the examples that is only asked.")] = 0.1,
    max_len: Annotated[int, typer.Option(help="Tokens of an example at most.", min=8)] = 1024,
    seed: Annotated[int, typer.Option(help="The same seed gives the same adapter.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA adapter; only the answers are learned. The folder is ready for `ramole upload`.

    Beside PEFT's two files it holds samples.json for the upload and prompts.json for `ramole evaluate`.
    """

    async def main() -> dict[str, Any]:
        import torch
        from rich.progress import BarColumn, TimeRemainingColumn

        from ramole.app.preflight import check_model
        from ramole.lab.training.adapter_job import AdapterJob, AdapterRecipe, run_adapter_job
        from ramole.zoo.catalog import load_zoo

        torch.set_num_threads(threads)
        check_device(device)
        if base:
            check_model("--base", base)
        zoo = None if base else load_zoo()
        job = AdapterJob(
            base=base if zoo is None else str(zoo.base_path),
            base_id=base_id or (base if zoo is None else zoo.base_id),
            data=data,
            out=out,
            recipe=AdapterRecipe(
                rank=rank,
                targets=tuple(target or ()),
                epochs=epochs,
                patience=patience,
                batch=batch,
                lr=lr,
                held_out=held_out,
                max_len=max_len,
                is_chat=chat,
            ),
            seed=seed,
            device=device,
        )
        with progress(BarColumn(), TimeRemainingColumn()) as display:
            task = display.add_task("reading", total=1.0)
            return run_adapter_job(
                job, progress=lambda what, done: display.update(task, description=what, completed=done)
            )

    figures = run(main)
    if as_json:
        say_json(figures)
        return
    say(
        f"{out}: {figures['examples']} examples, {figures['epochs']:g} epochs, held-out loss "
        f"{figures['loss_before']:.3f} -> {figures['loss']:.3f}"
    )
    say(f"upload it: ramole upload {out} --samples {out / 'samples.json'}")


@train_app.command("retriever")
@needing("lab")
def train_retriever(
    out: Annotated[Path, typer.Option(help="Folder for the retriever; a training that was stopped there goes on.")],
    adapters: Annotated[
        Path | None,
        typer.Option(help="Folder of PEFT folders with samples.json; default: the shipped zoo's.", file_okay=False),
    ] = None,
    base: Annotated[str, typer.Option(help="'minilm', a folder or a hub id of a sentence-transformers model.")] = "",
    mode: Annotated[str, typer.Option(help="lora, full, or none: only whiten.")] = "lora",
    whiten: Annotated[
        bool | None,
        typer.Option(help="Add the closed-form linear map; default: with --mode none or --fingerprint."),
    ] = None,
    fingerprint: Annotated[
        str,
        typer.Option(help="The base model that answers ('zoo', a folder or hub id): read its hidden states as well."),
    ] = "",
    read: Annotated[str, typer.Option(help="Where: at the last token, in the mean over all, or both.")] = "both",
    share: Annotated[float, typer.Option(help="Of the adapters to train with.", min=0, max=1)] = 0.4,
    rounds: Annotated[int, typer.Option(help="How often each task is shown.", min=1)] = 20,
    batch: Annotated[int, typer.Option(help="Tasks of a step at most.", min=2)] = 32,
    rank: Annotated[int, typer.Option(help="Of the LoRA on the encoder.", min=1)] = 8,
    lr: Annotated[float, typer.Option(help="0 = 1e-3 for a LoRA, 5e-5 for the whole encoder.", min=0)] = 0.0,
    temperature: Annotated[float, typer.Option(help="Of the contrast.")] = 0.05,
    checkpoint_steps: Annotated[int, typer.Option(help="How often the state is saved.", min=1)] = 50,
    instruction: Annotated[str | None, typer.Option(help="In front of every text; default: the paper's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same retriever.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Train a LoRARetriever: prompts of one adapter together, of different adapters apart.

    The folder's retriever.json holds its figures beside zero-shot retrieval. Serve with it by
    RAMOLE_EMBEDDING__RETRIEVER.
    """

    async def main() -> Retriever:
        import torch
        from rich.progress import BarColumn, TimeRemainingColumn

        from ramole.app.preflight import check_model
        from ramole.core.settings import PAPER_INSTRUCTION
        from ramole.embedding.retriever import Mode, Read
        from ramole.lab.evaluation.retriever_figures import more_texts, retriever_figures
        from ramole.lab.training.retriever import RetrieverRecipe
        from ramole.lab.training.retriever_job import RetrieverJob, run_retriever_job
        from ramole.zoo.catalog import ADAPTERS, load_zoo

        torch.set_num_threads(threads)
        check_device(device)
        if base:
            check_model("--base", base)
        if fingerprint:
            check_model("--fingerprint", fingerprint)
        if mode not in set(Mode):
            raise InvalidInput(f"no mode {mode!r}", field="--mode", remedy=f"use one of {', '.join(Mode)}")
        if read not in set(Read):
            raise InvalidInput(f"no place {read!r}", field="--read", remedy=f"use one of {', '.join(Read)}")
        job = RetrieverJob(
            adapters=adapters or load_zoo().base_path.parent / ADAPTERS,
            out=out,
            base=base or "minilm",
            recipe=RetrieverRecipe(
                mode=Mode(mode),
                rounds=rounds,
                batch=batch,
                lr=lr,
                rank=rank,
                temperature=temperature,
                checkpoint_steps=checkpoint_steps,
            ),
            share=share,
            is_whitened=(mode == Mode.NONE or bool(fingerprint)) if whiten is None else whiten,
            fingerprint=str(load_zoo().base_path) if fingerprint == "zoo" else fingerprint,
            read=Read(read),
            instruction=PAPER_INSTRUCTION if instruction is None else instruction,
            seed=seed,
            device=device,
        )
        with progress(BarColumn(), TimeRemainingColumn()) as display:
            task = display.add_task("reading", total=1.0)
            return run_retriever_job(
                job,
                measure=retriever_figures,
                more=more_texts,
                progress=lambda what, done: display.update(task, description=what, completed=done),
            )

    done = run(main)
    from ramole.lab.evaluation.retriever_figures import FINAL
    from ramole.lab.evaluation.wordings import is_proven

    if as_json:
        say_json({"out": str(out), "mode": done.mode, "base": done.base, **done.about})
        return
    measured = dict(done.about["figures"])
    words = measured.pop("wordings")
    for name, groups in measured.items():
        for group, figures in groups.items():
            tops = "  ".join(f"{top} {figures[top]:.3f}" for top in ("top1", "top3", "top5", "top8", "cluster"))
            say(f"{name:20s} {group:7s} {tops}")
    for kind, rows in words.items():
        say(f"in other words: {kind:6s} " + "  ".join(f"{name} top1 {row['top1']:.3f}" for name, row in rows.items()))
    if not is_proven(words, FINAL):
        say("in other words it is not better than the encoder alone with confidence: keep the encoder, or try --read")
    say(f"serve with it: RAMOLE_EMBEDDING__RETRIEVER={out}")


def _experts(adapters: Path | None, zoo: Path | None) -> tuple[RouterAdapter, ...]:
    from ramole.lab.evaluation.subject import read_entry
    from ramole.lab.training.folders import peft_folders
    from ramole.lab.training.router_job import RouterAdapter
    from ramole.zoo.catalog import Split, load_zoo

    if adapters is not None:
        found = [(e.name, e.path, e.samples, e.train) for e in map(read_entry, peft_folders(adapters))]
    else:
        found = [(a.name, a.path, a.samples, a.train) for a in load_zoo(zoo).of(Split.TRAIN)]
    return tuple(
        RouterAdapter(name, path.absolute(), samples, tuple((e.prompt, e.answer) for e in train))
        for name, path, samples, train in found
    )
