"""The pictures of the report. Each function draws one figure from the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE, COMPOSITION, DEFAULT, RIVAL = "#9aa0a6", "#4c78a8", "#d62728", "#e0a458"
LINES = ("black", "#4c78a8", "#e0a458", "#54a24b", "#8f63b8", "#37b0b0", "#b279a2")
REFERENCES = ("base", "perfect", "best_of_k")
RIVALS = ("random_gate", "adapter_soup", "lorahub", "arrow", "moe_top1", "moe_top3", "moe_soft", "smear")
SHAPES = "os^D"
SETTINGS = {"iid": "in domain", "ood": "out of domain: own adapter hidden"}


def bars(summary: Mapping[str, Any]) -> Figure:
    """Exact match of every method with its interval, in and out of domain."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = list(summary["iid"])
    figure = Figure(figsize=(11, 0.34 * len(names) + 1.6), layout="constrained")
    colors = [_color(name, summary["default"]) for name in names]
    for axes, (setting, title) in zip(figure.subplots(1, 2, sharey=True), SETTINGS.items(), strict=True):
        rows = [summary[setting].get(name) for name in names]
        places = [i for i, row in enumerate(rows) if row is not None]
        scores = np.array([[row["score"], row["low"], row["high"]] for row in rows if row is not None])
        spread = np.abs(scores[:, 1:] - scores[:, :1]).T
        axes.barh(places, scores[:, 0], xerr=spread, color=[colors[i] for i in places], ecolor="#333333", capsize=2.5)
        for place, (score, _, high) in zip(places, scores, strict=True):
            axes.text(min(high + 0.015, 1.02), place, f"{score:.2f}".lstrip("0"), va="center", fontsize=8)
        axes.set(title=title, xlabel="exact match, mean over tasks", xlim=(0, 1.1))
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(len(names) - 0.4, -0.6)
    kinds = {"reference": REFERENCE, "composition": COMPOSITION, "default composition": DEFAULT, "rival": RIVAL}
    figure.legend(
        handles=[Patch(color=color, label=label) for label, color in kinds.items()],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure


def growth(rows: Sequence[Mapping[str, Any]], default: str) -> Figure:
    """Exact match as the repository grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes = [row["num_adapters"] for row in rows]
    names = [name for name in rows[-1] if name not in ("num_adapters", "num_unseen")]
    for number, name in enumerate(names):
        values = np.array([[row[name]["score"], row[name]["low"], row[name]["high"]] for row in rows])
        style: dict[str, Any] = (
            {"lw": 2.5, "color": DEFAULT} if name == default else {"lw": 1.4, "color": LINES[number]}
        )
        if name == "perfect":
            style = {"lw": 1.4, "color": REFERENCE, "ls": "--"}
        (line,) = axes.plot(sizes, values[:, 0], marker="o", ms=4, label=name, **style)
        axes.fill_between(sizes, values[:, 1], values[:, 2], color=line.get_color(), alpha=0.1, lw=0)
    seen = max((row["num_adapters"] - row["num_unseen"] for row in rows), default=0)
    if 0 < seen < sizes[-1]:
        axes.axvspan(seen, sizes[-1], color="#f2e6c9", alpha=0.5, zorder=0)
        axes.text(sizes[-1], 1.06, "adapters that no training has seen ", ha="right", va="top", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="adapters in the repository", ylabel="exact match on their tasks", ylim=(0, 1.08))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def gates(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Mean weight by layer: of the first, second, third retrieved adapter, and of each adapter where retrieved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6 * len(found) + 1.2), layout="constrained")
    grid = figure.subplots(len(found), 2, squeeze=False, width_ratios=(1, 5))
    image = None
    for number, ((left, right), (preset, gate)) in enumerate(zip(grid, found.items(), strict=True)):
        by_rank, own = np.array(gate["by_rank"]), gate["own"]
        matrix = np.column_stack([by_rank, own]) if own else by_rank
        places = [str(i + 1) for i in range(by_rank.shape[1])] + (["own"] if own else [])
        image = left.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        left.set(title=f"{preset}, by rank", ylabel="layer")
        left.set_xticks(range(len(places)), places)
        for (layer, place), value in np.ndenumerate(matrix):
            color = "black" if value > 0.6 else "white"
            left.text(place, layer, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=color)
        columns = [int(i) for i in gate["by_adapter"]]
        right.imshow(np.array(list(gate["by_adapter"].values())).T, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        right.set(title="each adapter, where it was retrieved")
        is_last = number == len(found) - 1
        labels = [names[i] for i in columns] if is_last and len(columns) <= 64 else []
        right.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        for axes in (left, right):
            axes.set_yticks(range(len(matrix)))
    if image is not None:
        figure.colorbar(image, ax=grid, label="mean weight", shrink=0.7)
    return figure


def adapter_map(found: Mapping[str, Any]) -> Figure:
    """The adapter space in two dimensions: adapters as discs, test prompts as dots, wrong first hits as crosses."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    clusters = sorted({adapter["cluster"] for adapter in found["adapters"]})
    palette = [colormaps["tab20"](i % 20) for i in range(len(clusters))]
    color = {name: palette[i] for i, name in enumerate(clusters)}
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(clusters):
        points = np.array([a["xy"] for a in found["adapters"] if a["cluster"] == name])
        look: dict[str, Any] = {"color": color[name], "marker": SHAPES[i // 20 % len(SHAPES)]}
        axes.scatter(points[:, 0], points[:, 1], s=90, edgecolor="black", lw=0.8, label=name, zorder=3, **look)
    for is_hit, marker, size in ((True, ".", 14), (False, "x", 16)):
        chosen = [q for q in found["queries"] if q["is_hit"] is is_hit]
        if chosen:
            points = np.array([q["xy"] for q in chosen])
            colors = [color[q["cluster"]] for q in chosen]
            axes.scatter(points[:, 0], points[:, 1], s=size, marker=marker, color=colors, alpha=0.7, lw=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("adapters (outlined) and test prompts (dots; crosses where another adapter is nearer), by cluster")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def throughput(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Decode tokens per second of one module against the batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = {"ramole": "ramole", "masked_einsum": "the paper's masked form"}
    colors = {"ramole": DEFAULT, "masked_einsum": COMPOSITION}
    batches = [row["batch"] for row in rows]
    for name, label in labels.items():
        axes.plot(batches, [row["tokens_per_s"][name] for row in rows], marker="o", label=label, color=colors[name])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set(xlabel="requests in a decode step, k = 3 of up to 32 adapters", ylabel="tokens/s of one module's update")
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def number_of_experts(table: Sequence[Mapping[str, Any]], group: str, retriever: str) -> Figure | None:
    """Exact match against k, for the methods that were run with several; None when none was."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    def found(setting: str) -> dict[str, list[tuple[int, float]]]:
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in table:
            if (row["pool"], row["setting"], row["group"], row["retriever"]) == ("open", setting, group, retriever):
                curves.setdefault(row["method"], []).append((row["k"], row["exact_match"]["score"]))
        return {name: sorted(points) for name, points in curves.items() if len(points) > 1}

    if not found("iid"):
        return None
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    for axes, (setting, title) in zip(figure.subplots(1, 2), SETTINGS.items(), strict=True):
        for i, (name, points) in enumerate(found(setting).items()):
            label = name if setting == "iid" else None
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, label=label, color=colormaps["tab10"](i % 10))
        axes.set(title=title, xlabel="k", ylabel="exact match")
        axes.set_xticks(sorted({k for points in found(setting).values() for k, _ in points}))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _color(name: str, default: str) -> str:
    if name == default:
        return DEFAULT
    if name in REFERENCES:
        return REFERENCE
    return RIVAL if name in RIVALS else COMPOSITION
