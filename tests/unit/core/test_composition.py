"""What doubt makes of a composition."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.composition import PRESETS

CALIBRATED = PRESETS["calibrated"]
doubts = st.floats(0, 1)


@given(doubts)
def test_of_many_adapters_doubt_is_spread(doubt: float) -> None:
    assert CALIBRATED.doubting(doubt) == replace(CALIBRATED, spread=doubt)


@given(doubts, st.floats(0.5, 2))
def test_of_few_adapters_the_update_fades_too(doubt: float, scale: float) -> None:
    found = replace(CALIBRATED, scale=scale).doubting(doubt, of_few=True)
    assert found.spread == doubt / 2
    assert found.scale == pytest.approx(scale * (1 - doubt**2 / 2))


@pytest.mark.parametrize("of_few", [False, True])
def test_who_does_not_adapt_or_cannot_tell_stays_as_it_is(of_few: bool) -> None:
    assert PRESETS["hedged"].doubting(0.9, of_few=of_few) == PRESETS["hedged"]
    assert CALIBRATED.doubting(None, of_few=of_few) == CALIBRATED


def test_without_doubt_few_adapters_are_a_selection_with_a_soft_edge() -> None:
    assert CALIBRATED.doubting(0.0, of_few=True) == replace(CALIBRATED, spread=0.0)
