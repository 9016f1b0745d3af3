"""Small repositories: subsets of adapters, asked in domain and where no adapter fits."""

from __future__ import annotations

import numpy as np
import pytest

from ramole.core.composition import PRESETS
from ramole.lab.evaluation.evaluate import Bench
from ramole.lab.evaluation.few import few_adapters, few_summary
from ramole.lab.evaluation.views import View
from ramole.retrieval.few import OwnScores


def view_of(bench: Bench, own: float) -> View:
    """Each prompt is like its own adapter's samples, and like nobody else's."""
    similarities = np.full((bench.num_tests, len(bench.subject.entries)), 0.1, np.float32)
    similarities[np.arange(bench.num_tests), bench.own] = own
    scores = [OwnScores(0.9, 0.05)] * len(bench.subject.entries)
    everything = np.ones(similarities.shape, np.bool_)
    return View(np.arange(bench.num_tests), bench.own, similarities, everything, own_scores=scores)


def test_every_size_has_its_figures(bench: Bench) -> None:
    seen = np.zeros(len(bench.subject.entries), np.bool_)
    figures = few_adapters(bench.methods, view_of(bench, 0.9), seen, "calibrated", sizes=(2, 4, 8), num_draws=2)
    assert set(figures) == {"2", "4"}, "no subset of more adapters than there are"
    found = few_summary(figures)
    for size, row in found.items():
        assert set(row) == {"default", "selection", "hidden_nll", "base_nll"}
        # Similarities say the truth: the right adapter alone, and next to nothing where there is none.
        assert row["default"] == pytest.approx(row["selection"], abs=0.1)
        assert row["hidden_nll"] < figures[size]["selection"]["hidden_nll"]["score"]


def test_it_fades_where_nothing_is_near_and_takes_the_nearest_where_something_is(bench: Bench) -> None:
    view = view_of(bench, 0.9)
    near = view.compose(PRESETS["calibrated"])
    far = view.without_own().compose(PRESETS["calibrated"])
    assert all(one.scales[0] > 0.95 and one.gates[0] > 0.9 for one in near)
    assert all(one.scales[0] < 0.55 and max(one.gates) < 0.7 for one in far)
