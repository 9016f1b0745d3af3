"""`adapters similar` and `adapters map`: which spaces updates live in. On PEFT folders; no server is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramole.cli._common import AsJson, run
from ramole.cli._extras import needing
from ramole.cli._output import add_row, progress, say, say_json, show_table, table_of
from ramole.core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from ramole.lab.evaluation.subject import Subject, SubjectAdapter
    from ramole.lab.evaluation.subspaces import Updates

Folder = Annotated[
    Path | None, typer.Option("--adapters", help="Folder of PEFT folders; default: the shipped zoo's.", file_okay=False)
]
_INTERFERENCE_PROMPTS = 4


@needing("lab")
def similar(
    name: Annotated[str, typer.Argument(help="Of one of the folders.")],
    adapters: Folder = None,
    limit: Annotated[int, typer.Option(help="How many to show.", min=1)] = 10,
    as_json: AsJson = False,
) -> None:
    """The adapters whose updates have most in common with one: by what they read, what they write, and as a whole."""

    async def main() -> list[dict[str, Any]]:
        from ramole.lab.evaluation.subspaces import MEASURES, overlaps

        entries = _entries(adapters)
        names = [entry.name for entry in entries]
        if name not in names:
            raise NotFound(f"no adapter {name!r}", field="NAME", remedy=f"use one of {', '.join(names[:8])}, ...")
        updates = _updates(entries)
        found = {measure: overlaps(updates, measure)[names.index(name)] for measure in MEASURES}
        order = sorted(range(len(names)), key=lambda i: -found["cosine"][i])
        return [
            {"adapter": names[i], **{measure: round(float(values[i]), 4) for measure, values in found.items()}}
            for i in order
            if names[i] != name
        ][:limit]

    rows = run(main)
    if as_json:
        say_json(rows)
        return
    table = table_of("adapter", "rows", "columns", "cosine")
    for row in rows:
        add_row(table, row["adapter"], *(f"{row[key]:.3f}" for key in ("rows", "columns", "cosine")))
    show_table(table)


@needing("lab")
def overlap_map(
    adapters: Folder = None,
    base: Annotated[str, typer.Option(help="Folder of their base model, for --interference; default: the zoo's.")] = "",
    interference: Annotated[
        bool, typer.Option("--interference", help="Also measure how each adapter disturbs each other one: a minute.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Do the adapters share a space? Overlaps, redundant ones, clusters, and the dimensions that all need together."""

    async def main() -> dict[str, Any]:
        import torch
        from rich.progress import SpinnerColumn, TimeElapsedColumn

        from ramole.lab.evaluation import overlap_report

        torch.set_num_threads(threads)
        if interference and adapters is not None and not base:
            raise InvalidInput("whose adapters are they?", field="--base", remedy="give the folder of their base model")
        with progress(SpinnerColumn(), TimeElapsedColumn()) as display:
            task = display.add_task("comparing", total=None)
            subject = _subject(adapters, base)
            updates = _updates(subject.entries)
            clusters = [entry.cluster for entry in subject.entries]
            found = overlap_report.overlap_figures([entry.name for entry in subject.entries], clusters, updates)
            if interference:
                display.update(task, description="mixing")
                loss = _loss(subject)
                found["interference"] = overlap_report.interference_figures(updates, clusters, loss)
        return found

    figures = run(main)
    if as_json:
        say_json(figures)
        return
    table = table_of("overlap", "same cluster", "others", "random spaces", "clusters agree")
    for measure, row in figures["overlap"].items():
        add_row(table, measure, *(_short(row[key]) for key in ("within", "between", "random", "agreement")))
    show_table(table)
    for measure, found in figures["dimensions"].items():
        mean = found["mean"]
        say(
            f"{measure}: {mean['90%']:.0f} dimensions hold .90 of all updates' energy ({mean['own']:.1f} that of one, "
            f"{mean['sum']:.0f} all ranks together, {mean['width']:.0f} the whole space)"
        )
    say(f"redundant pairs: {', '.join(f'{a} = {b}' for a, b, _ in figures['redundant']) or 'none'}")
    for measure, groups in figures.get("interference", {}).get("correlation", {}).items():
        cells = (f"{name} {one['score']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for name, one in groups.items())
        say(f"loss by mixing, rank correlation with {measure}: {', '.join(cells)}")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _subject(adapters: Path | None, base: str) -> Subject:
    from ramole.lab.evaluation.subject import Subject, folder_subject, read_update_entry, zoo_subject
    from ramole.lab.training.folders import peft_folders
    from ramole.zoo.catalog import load_zoo

    if adapters is None:
        return zoo_subject(load_zoo())
    if base:
        return folder_subject(Path(base), adapters)
    return Subject(adapters.name, adapters, tuple(read_update_entry(folder) for folder in peft_folders(adapters)))


def _entries(adapters: Path | None) -> Sequence[SubjectAdapter]:
    return _subject(adapters, "").entries


def _updates(entries: Sequence[SubjectAdapter]) -> list[Updates]:
    from ramole.lab.evaluation.subspaces import updates_of
    from ramole.lora.files import read_folder
    from ramole.lora.reader import read_adapter

    return [updates_of(read_adapter(*read_folder(entry.path))) for entry in entries]


def _loss(subject: Subject) -> Any:
    import numpy as np

    from ramole.lab.evaluation.evaluate import Bench, Plan
    from ramole.lab.evaluation.overlap_report import interference

    bench = Bench.load(subject, Plan(prompts_per_task=_INTERFERENCE_PROMPTS))
    questions = [np.flatnonzero(bench.own == i).tolist() for i in range(len(subject.entries))]
    if not all(questions):
        raise InvalidInput(
            "an adapter has no test prompts", field="--adapters", remedy="give each folder prompts.json, see `evaluate`"
        )
    return interference(bench.methods.answerer, questions)
