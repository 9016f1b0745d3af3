"""Doubt: learned from adapters' own samples, low where one was made for the prompt, high where none was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.retrieval.doubt import NUM_NEAREST, Doubt, own_similarity, profile

cosines = st.lists(st.floats(-1, 1, width=32), min_size=NUM_NEAREST, max_size=NUM_NEAREST + 4)


def drawn(seed: int, num: int) -> tuple[list[list[float]], list[list[float]]]:
    """Profiles of a made-up repository: an own adapter is nearer than strangers, mostly."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(num):
        others = sorted(rng.normal(0.6, 0.1, NUM_NEAREST), reverse=True)
        pairs.append(profile(others, float(rng.normal(0.85, 0.05))))
    found, hidden = zip(*pairs, strict=True)
    return list(found), list(hidden)


def test_it_tells_prompts_with_an_adapter_from_prompts_without() -> None:
    doubt = Doubt.fit(*drawn(0, 200))
    found, hidden = drawn(1, 200)
    doubts = [[doubt(profile) for profile in group] for group in (found, hidden)]
    low, high = (np.array(group, float) for group in doubts)
    assert low.mean() < 0.25
    assert high.mean() > 0.5
    assert np.median(low) < 0.25 < np.median(high)


@given(st.lists(cosines, min_size=2, max_size=6), cosines)
@settings(max_examples=40, deadline=None)
def test_whatever_it_has_seen_it_stays_between_0_and_1(seen: list[list[float]], asked: list[float]) -> None:
    ordered = [sorted(one, reverse=True)[:NUM_NEAREST] for one in seen]
    doubt = Doubt.fit(ordered[:1], ordered[1:])
    value = doubt(sorted(asked, reverse=True))
    assert value is not None
    assert 0 <= value <= 1
    assert doubt(asked[: NUM_NEAREST - 1]) is None


@given(cosines, st.floats(-1, 1, width=32))
def test_profiles_differ_by_the_own_adapter_alone(others: list[float], own: float) -> None:
    others = sorted(others, reverse=True)
    found, hidden = profile(others, own)
    assert len(found) == len(hidden) == NUM_NEAREST
    assert hidden == others[:NUM_NEAREST]
    assert found == sorted([own, *others], reverse=True)[:NUM_NEAREST]


@pytest.mark.parametrize("best_of", [0, 1, 3])
def test_a_sample_does_not_count_for_its_own_adapter(best_of: int) -> None:
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((5, 16)).astype(np.float32)
    samples /= np.linalg.norm(samples, axis=1, keepdims=True)
    rest = samples[[0, 1, 3, 4]]
    if best_of:
        wanted = np.sort(rest @ samples[2])[-best_of:].mean()
    else:
        wanted = rest.mean(0) @ samples[2] / np.linalg.norm(rest.mean(0))
    assert own_similarity(samples, 2, best_of) == pytest.approx(float(wanted), abs=1e-6)
