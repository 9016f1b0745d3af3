from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.lab.evaluation.retrieval import Scoring, bm25_scores, compare, hits, score, tfidf_scores

SAMPLES = [
    ["turn the words around", "write the sentence backwards", "reverse the order of words"],
    ["translate to French", "say it in French please", "what is it in French"],
    ["add two numbers", "what is the sum", "compute a plus b"],
]


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@given(seed=st.integers(0, 1000), n=st.integers(1, 4), num=st.integers(1, 5), m=st.integers(1, 8))
def test_every_scoring_is_what_its_name_says(seed: int, n: int, num: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    prompts, samples = units(rng, n, 6), [units(rng, m, 6) for _ in range(num)]
    for i, prompt in enumerate(prompts):
        for j, group in enumerate(samples):
            cosines = sorted((float(prompt @ sample) for sample in group), reverse=True)
            mean = group.mean(0)
            expected = {
                Scoring.MEAN: prompt @ mean / np.linalg.norm(mean),
                Scoring.RAW_MEAN: np.mean(cosines),
                Scoring.MAX: cosines[0],
                Scoring.BEST_5: np.mean(cosines[:5]),
            }
            for scoring, value in expected.items():
                assert score(prompts, samples, scoring)[i, j] == pytest.approx(value, abs=1e-12)


def test_hits_count_places_clusters_and_ties() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.5, 0.5, 0.4], [0.3, 0.2, 0.1]])
    found = hits(scores, np.array([0, 1, 2]), ["a", "a", "b"])
    assert found["top1"].tolist() == [True, False, False]
    assert found["top3"].tolist() == [True, True, True]
    assert found["cluster"].tolist() == [True, True, False]


@pytest.mark.parametrize("baseline", [bm25_scores, tfidf_scores])
def test_word_counts_find_the_adapter_whose_words_the_prompt_uses(baseline: type[bm25_scores]) -> None:
    scores = baseline(["please reverse these words", "the sum of two numbers", "in French please", "zzz qqq"], SAMPLES)
    assert scores[:3].argmax(1).tolist() == [0, 2, 1]
    assert scores.shape == (4, 3)
    assert (scores[3] == 0).all()


def test_comparison_separates_seen_from_unseen_and_pairs_the_difference() -> None:
    num_tasks, per_task = 40, 5
    own = np.repeat(np.arange(num_tasks), per_task)
    right = np.eye(num_tasks)[own]
    half = right.copy()
    half[::2] = np.roll(half[::2], 1, axis=1)
    is_seen = np.arange(num_tasks) < 10
    figures = compare(
        {"bad": half, "good": right}, own, is_seen=is_seen, clusters=[str(i) for i in range(num_tasks)], reference="bad"
    )
    assert figures["good"]["unseen"]["top1"] == figures["good"]["seen"]["top1"] == 1.0
    assert figures["bad"]["unseen"]["top1"] == pytest.approx(0.5, abs=0.02)
    gain = figures["good"]["unseen"]["top1_gain"]
    assert gain["low"] <= gain["score"] <= gain["high"]
    assert gain["score"] == pytest.approx(0.5, abs=0.02)
    assert gain["low"] > 0.4
    assert "top1_gain" not in figures["bad"]["seen"]
    everything = compare(
        {"good": right}, own, is_seen=np.ones(num_tasks, bool), clusters=["c"] * num_tasks, reference="good"
    )
    assert list(everything["good"]) == ["seen"]


def test_a_retriever_gains_nothing_on_itself() -> None:
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(12), 4)
    scores = rng.normal(size=(48, 12))
    figures = compare(
        {"a": scores, "b": scores.copy()}, own, is_seen=np.zeros(12, bool), clusters=["c"] * 12, reference="a"
    )
    assert figures["b"]["unseen"]["top1_gain"] == {"score": 0.0, "low": 0.0, "high": 0.0}
