"""Panels of the dashboards as one picture, for those who have no Grafana at hand. Needs matplotlib (ramole[lab]).

python ops/picture.py http://127.0.0.1:9090 300 picture.svg      # the last 300 seconds
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

from matplotlib import pyplot as plt
from matplotlib import rc_context

from dashboards import DASHBOARDS, Panel

SHOWN = (
    ("ramole-overview", "Answers"),
    ("ramole-overview", "Time to first token"),
    ("ramole-overview", "Where the time goes"),
    ("ramole-engine", "Between two tokens"),
    ("ramole-engine", "Requests in a step"),
    ("ramole-adapters", "Unique adapters of a step"),
    ("ramole-adapters", "Slots"),
    ("ramole-adapters", "Found in a tier"),
    ("ramole-retrieval", "Similarity of the nearest"),
)

_LOOK = {"svg.hashsalt": "ramole", "svg.fonttype": "none", "font.size": 8.0, "axes.grid": True, "grid.alpha": 0.3}
_POINTS = 60
_NAME = re.compile(r"\{\{(\w+)\}\}")


def _range(url: str, expression: str, seconds: int) -> list[dict[str, Any]]:
    now, window = time.time(), max(10, seconds // 10)
    query = expression.replace("$__rate_interval", f"{window}s").replace("$job", ".*")
    asked = {"query": query, "start": now - seconds, "end": now, "step": max(1, seconds // _POINTS)}
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{urllib.parse.urlencode(asked)}", timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def _panel(axes: Any, url: str, panel: Panel, seconds: int) -> None:
    axes.set_title(f"{panel.title} [{panel.unit}]" if panel.unit != "short" else panel.title, fontsize=9)
    for expression, legend in panel.lines:
        for series in _range(url, expression, seconds):
            points = [(float(at), float(value)) for at, value in series["values"] if value != "NaN"]
            if any(value for _, value in points):
                first = series["values"][0][0]
                name = _NAME.sub(lambda label, of=series["metric"]: of.get(label[1], ""), legend)  # type: ignore[misc]
                axes.plot([at - first for at, _ in points], [value for _, value in points], label=name, linewidth=1)
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def draw(url: str, seconds: int, path: str) -> None:
    """Draws what the Prometheus at `url` knows of the last `seconds`."""
    panels = {(each.uid, panel.title): panel for each in DASHBOARDS for panel in each.panels}
    with rc_context(_LOOK):
        figure, places = plt.subplots(3, 3, figsize=(11, 7.5), layout="constrained")
        for axes, shown in zip(places.flat, SHOWN, strict=True):
            _panel(axes, url, panels[shown], seconds)
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, facecolor="white")


if __name__ == "__main__":
    draw(sys.argv[1], int(sys.argv[2]), sys.argv[3])
