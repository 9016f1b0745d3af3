"""The pictures of the guide, drawn by the evaluation's own plots from the figures of one of its runs.

ramole evaluate --quick --out report/
python docs/figures.py report/figures.json      # into docs/images
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib import rc_context

from ramole.lab.evaluation import plots

IMAGES = Path(__file__).parent / "images"
LOOK = {"svg.hashsalt": "ramole", "svg.fonttype": "none"}
"""The same figures give the same file; letters stay letters."""


def main(figures_path: str) -> None:
    figures = json.loads(Path(figures_path).read_text())
    names = [adapter["name"] for adapter in figures["map"]["adapters"]]
    drawn = {"compositions": plots.bars(figures["summary"]), "gates": plots.gates(figures["gates"], names)}
    with rc_context(LOOK):
        for name, figure in drawn.items():
            figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main(*sys.argv[1:])
