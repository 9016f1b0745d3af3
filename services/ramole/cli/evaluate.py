"""`evaluate`: every way of composing adapters beside every other, on one set of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramole.cli._common import AsJson, run
from ramole.cli._extras import needing
from ramole.cli._output import progress, say, say_json, show_table
from ramole.core.errors import InvalidInput

if TYPE_CHECKING:
    from ramole.lab.evaluation.subject import Subject


@needing("lab")
def evaluate(
    base: Annotated[str, typer.Option(help="Folder of a causal LM; default: the zoo's.")] = "",
    adapters: Annotated[
        Path | None, typer.Option(help="Folder of PEFT folders with samples.json and prompts.json.", file_okay=False)
    ] = None,
    tests: Annotated[
        Path | None, typer.Option(help='Test prompts, {"prompt", "answer", "adapter"} a line.', dir_okay=False)
    ] = None,
    zoo: Annotated[Path | None, typer.Option(help="A folder that `zoo build` made; default: the shipped zoo.")] = None,
    router: Annotated[
        list[Path] | None, typer.Option(help="RouterLoRA folder; give one for each seed of its training.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Sentence encoder of plain retrieval.")] = "minilm",
    retriever: Annotated[
        str, typer.Option(help="Folder that `train retriever` made, to measure beside it; zoo = the shipped one.")
    ] = "",
    method: Annotated[list[str] | None, typer.Option(help="Only these methods; may be given several times.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer prompts and k = 3 only: minutes.")] = False,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html, figures.json and CSV.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval and every composition, in and out of domain; exact match and likelihood of the answers.

    Out of domain means that the adapter made for a prompt is hidden. Without options the shipped zoo is measured, with
    the shipped retriever.
    """

    async def main() -> None:
        import torch
        from rich.progress import SpinnerColumn, TimeElapsedColumn

        from ramole.embedding.retriever import read_retriever
        from ramole.lab.evaluation.evaluate import FULL, QUICK, evaluate_subject
        from ramole.lab.evaluation.methods import METHODS
        from ramole.lab.evaluation.report import end_task_table, write_report
        from ramole.lab.evaluation.subject import mark_retriever
        from ramole.lab.memory_index import MemoryIndex, open_encoder
        from ramole.zoo.catalog import SHIPPED_RETRIEVER

        torch.set_num_threads(threads)
        if unknown := set(method or ()) - set(METHODS):
            raise InvalidInput(f"no method {min(unknown)!r}", field="--method", remedy=f"one of {', '.join(METHODS)}")
        subject = _subject(base, adapters, tests, zoo, router or [])
        plan = (QUICK if quick else FULL).only(method or ())
        with progress(SpinnerColumn(), TimeElapsedColumn()) as display:
            task = display.add_task("reading", total=None)
            samples = [entry.samples for entry in subject.entries]
            retrievers = {"zero_shot": MemoryIndex.build(open_encoder(encoder), samples)}
            is_shipped = adapters is None and zoo is None
            trained = str(SHIPPED_RETRIEVER) if retriever == "zoo" or (is_shipped and not retriever) else retriever
            if trained:
                subject = mark_retriever(subject, read_retriever(Path(trained)).about.get("tasks", ()))
                embed = open_encoder(encoder, retriever=trained, base_model=str(subject.base))
                retrievers["trained"] = MemoryIndex.build(embed, samples)
            figures = evaluate_subject(
                subject, retrievers, plan, progress=lambda what: display.update(task, description=what)
            )
            if out is not None:
                display.update(task, description="drawing")
                write_report(figures, out)
        if as_json:
            say_json(figures)
            return
        show_table(end_task_table(figures))
        if out is not None:
            say(f"report: {out / 'report.html'}")

    run(main)


def _subject(base: str, adapters: Path | None, tests: Path | None, zoo: Path | None, routers: list[Path]) -> Subject:
    from ramole.app.preflight import check_model
    from ramole.lab.evaluation.subject import folder_subject, zoo_subject
    from ramole.zoo.catalog import load_zoo

    if adapters is None:
        if base or tests:
            raise InvalidInput("only adapters of one's own have a base and tests", field="--adapters", remedy="give it")
        return zoo_subject(load_zoo(zoo), routers=routers)
    if not base:
        raise InvalidInput("whose adapters are they?", field="--base", remedy="give the folder of their base model")
    check_model("--base", base)
    return folder_subject(Path(base), adapters, tests=tests, routers=routers)
