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

SHRINKAGE = 0.1


def fit_whitening(samples: Sequence[Floats], *, shrinkage: float = SHRINKAGE) -> LinearMap:
    """W = L^-1 and g, with L L^T = S + shrinkage * mean(diag S) * I.

    S is the covariance of the samples around the mean of their own task, pooled over tasks; g is the mean of the means.

    Args:
        samples: embeddings of each task's samples, N x [m, d].

    Raises:
        InvalidInput: the samples do not vary within any task.
    """
    means = [one.mean(0, dtype=np.float64) for one in samples]
    rest = np.concatenate([one - mean for one, mean in zip(samples, means, strict=True)])
    covariance = rest.T @ rest / max(1, len(rest) - len(samples))
    level = float(np.trace(covariance)) / len(covariance)
    if not level > 0:
        raise InvalidInput(
            "no task has samples that differ", field="--whiten", remedy="give more samples or use --no-whiten"
        )
    factor = np.linalg.cholesky(covariance + shrinkage * level * np.eye(len(covariance)))
    matrix = np.linalg.inv(factor)
    # The length of what it makes is of no importance; a matrix of ordinary size keeps float32 exact.
    matrix *= np.sqrt(level)
    return LinearMap(matrix.astype(np.float32), np.mean(means, axis=0).astype(np.float32))
