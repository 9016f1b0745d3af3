"""An evaluation for people: a terminal table, CSV and JSON, and one HTML page with pictures."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ramole.core.texts import visible
from ramole.lab.evaluation import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = Mapping[str, Any]


def end_task_table(figures: Figures) -> Table:
    """The main comparison: exact match and NLL of each method, with intervals, open pool."""
    summary = figures["summary"]
    title = f"{visible(figures['subject']['name'])}: {summary['group']} tasks, 95 % intervals over tasks"
    table = Table(title=Text(title))
    for column in HEADER:
        table.add_column(column, no_wrap=True)
    for cells in _main_rows(figures):
        is_default = cells[0] == summary["default"]
        table.add_row(*cells, style="bold" if is_default else None)
    return table


def write_report(figures: Figures, out: Path) -> None:
    """Writes `report.html`, `figures.json` and `end_task.csv` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    _write_csv(figures["end_task"], out / "end_task.csv")
    (out / "report.html").write_text(_page(figures, out), encoding="utf-8")


HEADER = ("method", "retriever", "IID exact match", "IID NLL", "OOD exact match", "OOD NLL")


def _main_rows(figures: Figures) -> Iterator[list[str]]:
    group = figures["summary"]["group"]
    found: dict[tuple[str, str], dict[str, Figures]] = {}
    for row in figures["end_task"]:
        if row["pool"] == "open" and row["group"] == group and row["is_main"]:
            found.setdefault((row["method"], row["retriever"]), {})[row["setting"]] = row
    for (method, retriever), rows in found.items():
        cells = [method, retriever or "-"]
        for setting in ("iid", "ood"):
            for key in ("exact_match", "nll"):
                cells.append(_interval(rows[setting][key]))
        yield cells


def _interval(value: Figures) -> str:
    return f"{_short(value['score'])} [{_short(value['low'])}, {_short(value['high'])}]"


def _short(number: float) -> str:
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"


def _write_csv(rows: Sequence[Figures], path: Path) -> None:
    plain = ("retriever", "pool", "setting", "method", "k", "group", "num_tasks")
    nested = ("exact_match", "nll")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, *(f"{key}_{part}" for key in nested for part in ("score", "low", "high"))])
        for row in rows:
            writer.writerow(
                [row[key] for key in plain] + [row[key][p] for key in nested for p in ("score", "low", "high")]
            )


def _page(figures: Figures, out: Path) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(__name__.rpartition(".")[0], "")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return pages.get_template("report.html.jinja").render(
        subject=figures["subject"],
        summary=figures["summary"],
        retrieval=_retrieval_rows(figures["retrieval"]),
        wordings=_wording_rows(figures["wordings"]) if figures["wordings"] else None,
        methods=(HEADER, list(_main_rows(figures))),
        small=_small_rows(figures["small"]) if figures["small"] else None,
        two_skill=_two_skill_rows(figures["two_skill"]) if figures["two_skill"] else None,
        pictures={name: _save(figure, out / f"{name}.png") for name, figure in _drawn(figures).items()},
    )


def _drawn(figures: Figures) -> dict[str, Figure]:
    summary = figures["summary"]
    drawn = {
        "bars": plots.bars(summary),
        "growth": plots.growth(figures["growth"], summary["default"]),
        "map": plots.adapter_map(figures["map"]),
        "throughput": plots.throughput(figures["throughput"]),
    }
    experts = plots.number_of_experts(figures["end_task"], summary["group"], list(summary["retriever"])[-1])
    if experts is not None:
        drawn["experts"] = experts
    if figures["gates"]:
        drawn["gates"] = plots.gates(figures["gates"], [adapter["name"] for adapter in figures["map"]["adapters"]])
    return drawn


def _save(figure: Figure, path: Path) -> str:
    """Writes a picture beside the page and returns it in base64 as part of the page, which stays one file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    path.write_bytes(buffer.getvalue())
    return base64.b64encode(buffer.getvalue()).decode()


def _retrieval_rows(retriever: Figures) -> tuple[Sequence[str], list[list[str]]]:
    header = ["retriever", "tasks", "top-1", "top-3", "top-5", "top-8", "right cluster", "top-1 gain"]
    rows = [
        [
            name,
            group,
            *(_short(hits[key]) for key in ("top1", "top3", "top5", "top8", "cluster")),
            _interval(hits["top1_gain"]) if "top1_gain" in hits else "-",
        ]
        for name, groups in retriever.items()
        for group, hits in groups.items()
    ]
    return header, rows


def _wording_rows(found: Figures) -> tuple[Sequence[str], list[list[str]]]:
    header = ["prompts", "retriever", "top-1", "top-3", "top-1 gain"]
    rows = [
        [
            kind,
            name,
            *(_short(row[key]) for key in ("top1", "top3")),
            _interval(row["top1_gain"]) if "top1_gain" in row else "-",
        ]
        for kind, retrievers in found.items()
        for name, row in retrievers.items()
    ]
    return header, rows


def _small_rows(found: Figures) -> tuple[Sequence[str], list[list[str]]]:
    keys = ("exact_match", "nll", "hidden_exact_match", "hidden_nll")
    rows = [
        [size, method, *(_interval(of_size[method][key]) for key in keys)]
        for size, of_size in found.items()
        for method in ("default", "selection", "base")
    ]
    return ["adapters", "method", "exact match", "NLL", "no adapter fits: exact match", "NLL"], rows


def _two_skill_rows(found: Figures) -> tuple[Sequence[str], list[list[str]]]:
    header = [f"{found['num_prompts']} prompts, {found['num_pairs']} pairs", "exact match", "minus both named, mixture"]
    rows = [
        [name, _interval(value), _interval(value["minus_both_named_mixture"])]
        for name, value in found["methods"].items()
    ]
    return header, rows
