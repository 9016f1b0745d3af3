"""The pictures of the guide, drawn by the evaluation's own plots from logged figures: python docs/figures.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context

from ramole.lab.evaluation import plots

IMAGES = Path(__file__).parent / "images"
LOOK = {"svg.hashsalt": "ramole", "svg.fonttype": "none"}
"""The same figures give the same file; letters stay letters."""

# docs/log/2026-11-25-compositions.md and, for calibrated, 2026-11-25-doubt.md: exact match on 149 unseen tasks, in
# domain and with the own adapter hidden; with the 95 % interval over tasks where the log has one.
EXACT_MATCH: dict[str, tuple[tuple[float, ...], tuple[float, ...] | None]] = {
    "base": ((0.009,), (0.009,)),
    "perfect": ((0.912,), None),
    "selection": ((0.828, 0.790, 0.863), (0.258,)),
    "calibrated": ((0.821, 0.784, 0.856), (0.273, 0.216, 0.331)),
    "hedged": ((0.821, 0.782, 0.857), (0.276, 0.219, 0.334)),
    "similarity": ((0.795,), (0.273,)),
    "ramole_prior": ((0.707,), (0.261,)),
    "mixture": ((0.537,), (0.312, 0.254, 0.373)),
    "ramole": ((0.461,), (0.293,)),
    "random_gate": ((0.426,), (0.252,)),
    "adapter_soup": ((0.287,), (0.184,)),
    "fusion": ((0.284,), (0.173,)),
    "arrow": ((0.040,), (0.026,)),
}

# docs/log/2026-11-25-compositions.md, "Growth"; all but the first 99 adapters are unseen by any training.
SIZES, SEEN = (8, 32, 64, 128, 248), 99
GROWTH = {
    "perfect": (1.0, 0.91, 0.89, 0.90, 0.90),
    "selection": (1.0, 0.89, 0.88, 0.87, 0.82),
    "hedged": (1.0, 0.88, 0.88, 0.86, 0.82),
    "ramole": (0.75, 0.68, 0.61, 0.58, 0.48),
}


def _row(figure: tuple[float, ...]) -> dict[str, float]:
    score, *interval = figure
    low, high = interval or (score, score)
    return {"score": score, "low": low, "high": high}


def compositions() -> Any:
    """Exact match of every method, in and out of domain."""
    iid = {name: _row(inside) for name, (inside, _) in EXACT_MATCH.items()}
    ood = {name: _row(hidden) for name, (_, hidden) in EXACT_MATCH.items() if hidden}
    return plots.bars({"default": "calibrated", "iid": iid, "ood": ood})


def growth() -> Any:
    """Exact match as the repository grows."""
    rows = [
        {"num_adapters": size, "num_unseen": max(0, size - SEEN)}
        | {name: _row((at[i],)) for name, at in GROWTH.items()}
        for i, size in enumerate(SIZES)
    ]
    return plots.growth(rows, "hedged")


def main() -> None:
    with rc_context(LOOK):
        for draw in (compositions, growth):
            draw().savefig(IMAGES / f"{draw.__name__}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
