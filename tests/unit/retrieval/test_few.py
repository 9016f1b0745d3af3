"""Doubt where adapters are few: by what the nearest adapter's own samples score with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.retrieval.few import MIN_SAMPLES, OwnScores

cosines = st.floats(-1, 1)
own_scores = st.builds(OwnScores, cosines, st.floats(0, 0.5))


@given(own_scores, cosines, cosines, st.integers(1, 1000))
def test_a_nearer_prompt_is_doubted_less(own: OwnScores, a: float, b: float, size: int) -> None:
    near, far = max(a, b), min(a, b)
    assert 0 <= own.doubt(near, size) <= own.doubt(far, size) <= 1


@given(own_scores, cosines, st.integers(1, 500), st.integers(1, 500))
def test_among_more_adapters_the_nearest_is_doubted_more(own: OwnScores, similarity: float, a: int, b: int) -> None:
    assert own.doubt(similarity, min(a, b)) <= own.doubt(similarity, max(a, b))


def test_a_prompt_like_the_samples_is_believed_and_a_strange_one_is_not() -> None:
    own = OwnScores(0.9, 0.03)
    assert own.doubt(0.9, 4) < 0.1
    assert own.doubt(0.3, 4) > 0.99


@pytest.mark.parametrize("num", range(MIN_SAMPLES))
def test_too_few_samples_tell_nothing(num: int) -> None:
    assert OwnScores.of(np.eye(4, dtype=np.float32)[:num], 0) is None


@pytest.mark.parametrize("best_of", [0, 1])
def test_each_sample_is_left_out_of_its_own_score(best_of: int) -> None:
    # Samples at right angles: without itself nothing is near.
    own = OwnScores.of(np.eye(4, dtype=np.float32), best_of)
    assert own == OwnScores(0.0, 0.0)
