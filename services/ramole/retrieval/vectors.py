"""Checks that stand between the wire and the index: Milvus Lite stores a NaN without a word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ramole.core.errors import InvalidInput

MIN_DIM, MAX_DIM = 2, 32_768
"""What Milvus can hold in a FLOAT_VECTOR."""

# Unit vectors that cancel out to less than this have no direction left that is more than rounding.
_MIN_NORM = 1e-6


def unit(values: ArrayLike, *, field: str) -> NDArray[np.float32]:
    """Scales one vector ``[dim]`` to length 1.

    Raises:
        InvalidInput: not one-dimensional, an unsupported number of dimensions, not finite, or zero.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not MIN_DIM <= vector.size <= MAX_DIM:
        raise InvalidInput(
            f"a vector of shape {list(vector.shape)}", field=field, remedy=f"give {MIN_DIM} to {MAX_DIM} numbers"
        )
    if not np.isfinite(vector).all():
        raise InvalidInput("the vector is not finite", field=field, remedy="embed the text again")
    length = float(np.linalg.norm(vector))
    if length < _MIN_NORM:
        raise InvalidInput("the vector has no direction", field=field, remedy="give a vector of length 1")
    return (vector / length).astype(np.float32)


def unit_samples(samples: Sequence[ArrayLike], *, field: str) -> NDArray[np.float32]:
    """Scales m sample vectors to length 1: ``[m, dim]``.

    Raises:
        InvalidInput: no samples, a sample that `unit` refuses, or samples of different dimensions.
    """
    if not samples:
        raise InvalidInput("no sample vectors", field=field, remedy="give one vector for each sample input")
    units = [unit(sample, field=f"{field}[{i}]") for i, sample in enumerate(samples)]
    dims = {vector.size for vector in units}
    if len(dims) > 1:
        raise InvalidInput(
            f"vectors of {sorted(dims)} dimensions together", field=field, remedy="embed all samples with one encoder"
        )
    return np.stack(units)


def unit_mean(units: NDArray[np.float32], *, field: str) -> NDArray[np.float32]:
    """The direction of the mean of m vectors of length 1: ``[m, dim] -> [dim]``.

    Raises:
        InvalidInput: they cancel out.
    """
    return unit(units.mean(axis=0, dtype=np.float64), field=field)
