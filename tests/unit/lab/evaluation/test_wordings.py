"""The same requests in other words, and what they say of a retriever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.lab.evaluation.wordings import Kind, asked, bare, chat, is_proven, judge, scores_of, wordings

CITIES = ("rome", "oslo", "paris", "lima", "cairo", "delhi")
WEATHER = [f"What is the weather in {city}?\nAnswer:" for city in CITIES]
FORECAST = [f"Forecast please, for {city} tomorrow." for city in CITIES]
TIME = [f"Tell me the local time of {city}" for city in CITIES]


def test_samples_of_one_wording_go_together() -> None:
    mixed = [text for pair in zip(WEATHER, FORECAST, TIME, strict=True) for text in pair]
    assert wordings(mixed) == [0, 1, 2] * len(CITIES)
    assert wordings(WEATHER) == [0] * len(CITIES)


@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_samples_have_a_wording_each(samples: list[str]) -> None:
    found = wordings(samples)
    assert len(found) == len(samples)
    assert set(found) == set(range(max(found, default=-1) + 1))


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("Review: a fine film\nSentiment:", "a fine film"),
        ("a fine film", "a fine film"),
        ("Answer:", "Answer:"),
        ("Calculate.\n2 + 2\nThe result, as a number:", "Calculate.\n2 + 2"),
        ("we meet at 10:30\nand then: home", "we meet at 10:30\nand then: home"),
    ],
)
def test_cues_are_dropped_and_the_rest_stays(prompt: str, wanted: str) -> None:
    assert bare(prompt) == wanted


@given(st.text(min_size=1))
def test_something_is_always_left(prompt: str) -> None:
    assert bare(prompt)
    assert prompt in chat(prompt)


def test_a_sample_is_sought_among_other_wordings() -> None:
    kinds = asked([[*WEATHER, *FORECAST], TIME], [*WEATHER[:2], *TIME[:2]], np.array([0, 0, 1, 1]))
    new = kinds[Kind.NEW]
    assert set(new.own) == {0}, "an adapter of one wording has no other"
    groups = [frozenset(range(6)), frozenset(range(6, 12))]
    for text, out in zip(new.texts, new.left_out, strict=True):
        assert out == groups[text in FORECAST]
    # Scored as if the adapter had been uploaded without them.
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((12, 5)), rng.standard_normal((6, 5))]
    samples = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in samples]
    prompts = rng.standard_normal((len(new.texts), 5))
    found = scores_of(new, prompts, samples)
    for row, out in enumerate(new.left_out):
        mean = np.delete(samples[0], sorted(out), axis=0).mean(0)
        assert found[row, 0] == pytest.approx(prompts[row] @ mean / np.linalg.norm(mean))


def test_who_knows_wordings_by_heart_is_found_out() -> None:
    """One retriever reads what is asked, the other one only in which words."""
    samples = [[*WEATHER, *FORECAST], TIME * 2]
    kinds = asked(samples, [*WEATHER, *TIME], np.repeat([0, 1], 6))

    def reads(texts: tuple[str, ...]) -> np.ndarray:
        return np.eye(2)[[int("time" in text) for text in texts]]

    def parrot(texts: tuple[str, ...]) -> np.ndarray:
        return np.eye(3)[[0 if "Answer:" in text else 1 if "Forecast" in text else 2 for text in texts]]

    made = {"parrot": parrot, "reads": reads}
    found = judge(
        kinds,
        {name: {kind: embed(one.texts) for kind, one in kinds.items()} for name, embed in made.items()},
        {name: [embed(tuple(group)) for group in samples] for name, embed in made.items()},
        clusters=["a", "b"],
        reference="parrot",
    )
    assert found["given"]["parrot"]["top1"] == found["given"]["reads"]["top1"] == 1
    assert found["new"]["reads"]["top1"] == 1
    assert found["all"]["reads"]["top1_gain"]["score"] > 0
    assert not is_proven(found, "parrot")
    assert not is_proven({}, "reads")
