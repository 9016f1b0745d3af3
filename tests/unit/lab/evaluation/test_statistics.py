"""Intervals: over tasks, repeatable, paired."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.lab.evaluation.statistics import estimate, task_means


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(deadline=None)  # the first example imports scipy
def test_the_interval_holds_the_mean_and_stays_inside_the_data(values: list[float]) -> None:
    means = np.array(values)
    found = estimate(means)
    assert found.low - 1e-9 <= found.score <= found.high + 1e-9
    assert means.min() - 1e-9 <= found.low
    assert found.high <= means.max() + 1e-9
    shifted = estimate(means + 1)
    np.testing.assert_allclose([shifted.low, shifted.high], [found.low + 1, found.high + 1])


def test_a_constant_difference_has_no_width_however_the_tasks_differ() -> None:
    tasks = np.array([0.1, 0.9, 0.4, 0.6])
    found = estimate((tasks + 0.05) - tasks)
    np.testing.assert_allclose([found.score, found.low, found.high], 0.05)
    assert estimate(tasks).high - estimate(tasks).low > 0.1


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.5, 0.2, (200, 40))
    hits = [found.low <= 0.5 <= found.high for found in map(estimate, samples)]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_every_task_counts_the_same_whatever_its_prompts() -> None:
    values, tasks = np.array([1, 1, 1, 0, 0.5]), np.array([7, 7, 7, 2, 7])
    np.testing.assert_allclose(task_means(values, tasks), [0, 0.875])
