"""Means over tasks with bootstrap intervals. Tasks are resampled, not prompts: prompts of one task are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
NUM_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over tasks and its 95 % interval."""

    score: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Rounded, for JSON."""
        return {"score": round(self.score, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def task_means(values: npt.NDArray[Any], tasks: npt.NDArray[np.int64]) -> Floats:
    """Mean of the values of each task's prompts, in the order of the task numbers; without prompts, no task."""
    numbers, rows = np.unique(tasks, return_inverse=True)
    totals = np.bincount(rows, weights=values.astype(np.float64), minlength=len(numbers))
    return totals / np.bincount(rows, minlength=len(numbers))


def estimate(means: Floats, *, seed: int = 0) -> Estimate:
    """Macro mean of [num_tasks] values. Differences of two methods, task by task, make it a paired test.

    The same number of tasks and the same seed resample the same tasks, whatever the values.
    """
    from scipy.stats import bootstrap

    score = float(means.mean())
    if len(means) < 2:
        return Estimate(score, score, score)
    found = bootstrap((means,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=seed)
    return Estimate(score, float(found.confidence_interval.low), float(found.confidence_interval.high))
