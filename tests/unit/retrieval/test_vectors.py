from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray

from ramole.core.errors import InvalidInput
from ramole.retrieval.vectors import MAX_DIM, unit, unit_mean, unit_samples


def mean_of(samples: Sequence[ArrayLike]) -> NDArray[np.float32]:
    return unit_mean(unit_samples(samples, field="samples"), field="samples")


FINITE = st.floats(-1e3, 1e3, width=32)


@given(arrays(np.float32, st.integers(2, 40), elements=FINITE))
def test_unit_keeps_the_direction(values: np.ndarray) -> None:
    if np.linalg.norm(values.astype(np.float64)) < 1e-6:
        with pytest.raises(InvalidInput, match="direction"):
            unit(values, field="v")
        return
    made = unit(values, field="v")
    assert made.dtype == np.float32
    assert np.linalg.norm(made) == pytest.approx(1, abs=1e-5)
    assert made @ values == pytest.approx(np.linalg.norm(values), rel=1e-4, abs=1e-6)


def test_each_sample_counts_the_same_whatever_its_length() -> None:
    made = mean_of([[100.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    assert made == pytest.approx([2**-0.5, 2**-0.5, 0], abs=1e-7)


def test_more_samples_of_one_kind_pull_the_mean() -> None:
    x, y = np.eye(2)
    assert mean_of([x, x, y]) == pytest.approx(np.array([2, 1]) / 5**0.5, abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [[1.0, 0.0]], np.ones(MAX_DIM + 1), [np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0], [0.0, 0.0], 1.0],
)
def test_bad_vectors_are_refused_by_name(values: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        unit(values, field="vector")  # type: ignore[arg-type]
    assert refused.value.field == "vector"
    with pytest.raises(InvalidInput) as refused:
        mean_of([[1.0, 0.0], values])  # type: ignore[list-item]
    assert refused.value.field == "samples[1]"


@pytest.mark.parametrize("samples", [[], [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0, 0.0]]])
def test_samples_without_a_mean_are_refused(samples: list[list[float]]) -> None:
    with pytest.raises(InvalidInput) as refused:
        mean_of(samples)
    assert refused.value.field == "samples"
