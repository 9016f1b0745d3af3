"""The closed-form metric: linear discriminant analysis of embeddings, learned from adapters that are known.

What varies within a task (names, numbers, chatter) varies in the same way in tasks that nobody has seen yet, so the
inverse of the pooled within-task covariance is a metric that carries over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import InvalidInput
from ramole.embedding.retriever import LinearMap

Floats = NDArray[np.float32]

SHRINKAGE = 0.3
MIN_TASKS = 32
"""Fewer say too little about the directions in which tasks differ."""


def fit_whitening(samples: Sequence[Floats], *, shrinkage: float = SHRINKAGE) -> LinearMap:
    """W = D U^T L^-1 and g, with L L^T = S + shrinkage * mean(diag S) * I.

    S is the covariance of the samples around the mean of their own task, pooled over tasks; g is the mean of the means.
    U and v are the directions and variances of the task means after L^-1; D = (v / (v + mean v))^(1/4) makes little of
    directions in which tasks do not differ. With fewer than `MIN_TASKS` tasks W = L^-1.

    Args:
        samples: embeddings of each task's samples, N x [m, d].

    Returns:
        W [d, d], or [N - 1, d] where U is used and N <= d.

    Raises:
        InvalidInput: the samples do not vary within any task.
    """
    means = np.stack([one.mean(0, dtype=np.float64) for one in samples])
    rest = np.concatenate([one - mean for one, mean in zip(samples, means, strict=True)])
    covariance = rest.T @ rest / max(1, len(rest) - len(samples))
    level = float(np.trace(covariance)) / len(covariance)
    if not level > 0:
        raise InvalidInput(
            "no task has samples that differ", field="--whiten", remedy="give more samples or use --no-whiten"
        )
    matrix = np.linalg.inv(np.linalg.cholesky(covariance + shrinkage * level * np.eye(len(covariance))))
    centre = means.mean(0)
    if len(samples) >= MIN_TASKS:
        _, stretch, directions = np.linalg.svd((means - centre) @ matrix.T, full_matrices=False)
        variances = stretch[: len(samples) - 1] ** 2 / len(samples)
        weights = (variances / (variances + variances.sum() / len(covariance))) ** 0.25
        matrix = weights[:, None] * directions[: len(variances)] @ matrix
    # The length of what it makes is of no importance; a matrix of ordinary size keeps float32 exact.
    matrix *= np.sqrt(level)
    return LinearMap(matrix.astype(np.float32), centre.astype(np.float32))
