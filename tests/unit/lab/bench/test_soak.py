"""The soak sees what grows, and what a server of its own leaves when its clients have gone."""

from __future__ import annotations

import numpy as np
import pytest

from ramole.lab.bench.serve.options import SoakCase
from ramole.lab.bench.serve.soak import EMPTY, FLAT, Seen, run_soak, summary_of

CASE = SoakCase(minutes=10, warm_up=0.2)


def seen(per_min: float, slower: float = 1.0) -> Seen:
    chance = np.random.default_rng(0)
    found = Seen()
    for s in np.arange(0.0, 600.0, 2.0):
        start = 500.0 * min(s / 60, 1)  # what is loaded in the first minute is no leak
        found.samples.append(
            {"s": s, "rss_mib": start + per_min * s / 60 + chance.normal(0, 2), "handles": 80, "threads": 40}
        )
        found.latencies.append((s, 0.1 * (1 + (slower - 1) * (s >= 540))))
    return found


@pytest.mark.parametrize("per_min", [0.0, 3.0])
def test_a_slope_is_what_grows_after_the_beginning(per_min: float) -> None:
    summary = summary_of(CASE, seen(per_min))
    assert abs(summary["rss_mib_per_min"] - per_min) < 3 * summary["rss_mib_per_min_stderr"] < 1
    assert summary["handles_per_min"] == summary["threads_per_min"] == 0


def test_the_last_minute_is_held_against_the_first_one() -> None:
    assert summary_of(CASE, seen(0))["p99_last_vs_first"] == pytest.approx(1)
    assert summary_of(CASE, seen(0, slower=2))["p99_last_vs_first"] == pytest.approx(2)


@pytest.mark.slow  # starts a server for figures that mean nothing
def test_a_short_soak_leaves_nothing() -> None:
    result = run_soak(SoakCase(minutes=0.5, clients=2, num_adapters=3, upload_pause_s=0.5), progress=lambda _: None)
    summary = result["summary"]
    assert result["errors"] == {}
    assert all(f"{name}_per_min" in summary for name in FLAT)
    assert [summary[name.replace("ramole_", "left_")] for name in EMPTY] == [0] * len(EMPTY)
    assert min(summary[name] for name in ("requests", "cancelled", "uploads")) > 0
