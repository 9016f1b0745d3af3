"""An evaluation for people: a terminal table, CSV and JSON, and one HTML page with pictures."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
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
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; font-size: 13px }
td, th { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: left }
td + td { font-variant-numeric: tabular-nums }
"""


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
    summary = figures["summary"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>ramole evaluate</title><style>{_STYLE}</style>",
        f"<h1>{escape(figures['subject']['name'])}</h1>",
        f"<p>{figures['subject']['num_adapters']} adapters, {figures['subject']['num_trained']} of them known to the "
        f"router's training; {figures['subject']['num_prompts']} test prompts; {summary['group']} tasks below; "
        "95 % intervals by bootstrap over tasks.</p>",
        "<h2>Retrieval</h2>",
        _html_table(*_retrieval_rows(figures["retrieval"])),
        "<h2>Every method</h2>",
        _picture(plots.bars(summary), out / "bars.png", "exact match of every method"),
        _html_table(HEADER, list(_main_rows(figures))),
    ]
    experts = plots.number_of_experts(figures["end_task"], summary["group"], list(summary["retriever"])[-1])
    if experts is not None:
        parts += ["<h2>Number of experts</h2>", _picture(experts, out / "experts.png", "exact match against k")]
    parts += [
        "<h2>A growing repository</h2>",
        _picture(plots.growth(figures["growth"], summary["default"]), out / "growth.png", "exact match and growth"),
    ]
    if figures["two_skill"]:
        parts += ["<h2>Prompts that need two skills</h2>", _html_table(*_two_skill_rows(figures["two_skill"]))]
    if figures["gates"]:
        names = [adapter["name"] for adapter in figures["map"]["adapters"]]
        parts += [
            "<h2>Weights by layer and expert</h2>",
            _picture(plots.gates(figures["gates"], names), out / "gates.png", "mean weight by layer and expert"),
        ]
    parts += [
        "<h2>The adapter space</h2>",
        _picture(plots.adapter_map(figures["map"]), out / "map.png", "adapters and prompts in two dimensions"),
        "<h2>Throughput</h2>",
        _picture(plots.throughput(figures["throughput"]), out / "throughput.png", "tokens per second by batch size"),
        "</html>",
    ]
    return "\n".join(parts)


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


def _two_skill_rows(found: Figures) -> tuple[Sequence[str], list[list[str]]]:
    header = [f"{found['num_prompts']} prompts, {found['num_pairs']} pairs", "exact match", "minus both named, mixture"]
    rows = [
        [name, _interval(value), _interval(value["minus_both_named_mixture"])]
        for name, value in found["methods"].items()
    ]
    return header, rows


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _picture(figure: Figure, path: Path, text: str) -> str:
    """Writes a picture beside the page and returns it as part of the page, which stays one file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    path.write_bytes(buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'
