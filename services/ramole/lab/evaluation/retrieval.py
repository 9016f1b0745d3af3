"""How well a prompt finds the adapter that was made for it: scorings, word-count baselines, accuracies.

Pure functions over arrays. n prompts, N adapters with m samples each, vectors of dimension d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.statistics import estimate, task_means
from ramole.retrieval.ranking import similarity

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

TOPS = (1, 3, 5, 8)


class Scoring(StrEnum):
    """How the m similarities of a prompt to an adapter's samples become one score."""

    MEAN = "mean"
    """Cosine with the mean of the samples: the paper's rule, and the server's."""
    RAW_MEAN = "raw_mean"
    """Inner product with the mean, whose length is left as it is: what the authors' code does."""
    MAX = "max"
    BEST_5 = "best_5"
    """Mean of the best five samples."""


def score(prompts: Floats, samples: Sequence[Floats], scoring: Scoring = Scoring.MEAN) -> Floats:
    """Scores of each prompt with each adapter, [n, N].

    Args:
        prompts: unit vectors, [n, d].
        samples: unit vectors of each adapter, N x [m, d].
    """
    if scoring is Scoring.RAW_MEAN:
        return np.stack([prompts @ one.mean(0) for one in samples], axis=1)
    best_of = {Scoring.MEAN: 0, Scoring.MAX: 1, Scoring.BEST_5: 5}[scoring]
    return np.stack([similarity(prompts, one, best_of) for one in samples], axis=1)


def retrieval_figures(
    vectors: Mapping[str, tuple[Floats, Sequence[Floats]]],
    prompts: Sequence[str],
    samples: Sequence[Sequence[str]],
    own: Ints,
    *,
    is_seen: Bools,
    clusters: Sequence[str],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every retriever under every scoring, and two that count words, see `compare`; the first is the reference.

    Args:
        vectors: of each retriever, those of the prompts and of each adapter's samples.
    """
    scores: dict[str, Floats] = {}
    for name, (queries, groups) in vectors.items():
        for scoring in Scoring:
            scores[name if scoring is Scoring.MEAN else f"{name} {scoring}"] = score(queries, groups, scoring)
    scores |= {"bm25": bm25_scores(prompts, samples), "tfidf": tfidf_scores(prompts, samples)}
    return compare(scores, own, is_seen=is_seen, clusters=clusters, reference=next(iter(vectors)))


def bm25_scores(prompts: Sequence[str], samples: Sequence[Sequence[str]]) -> Floats:
    """BM25 with each adapter's samples as one document, [n, N]."""
    import bm25s

    def words(texts: Sequence[str]) -> list[list[str]]:
        tokens: list[list[str]] = bm25s.tokenize(list(texts), stopwords=None, return_ids=False, show_progress=False)
        return tokens

    index = bm25s.BM25()
    index.index(words([" ".join(group) for group in samples]), show_progress=False)
    return np.stack([index.get_scores(tokens) for tokens in words(prompts)])


def tfidf_scores(prompts: Sequence[str], samples: Sequence[Sequence[str]]) -> Floats:
    """Cosine with the mean TF-IDF vector of the samples; words and word pairs, [n, N]."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    vectorizer.fit([text for group in samples for text in group])
    means = np.stack([np.asarray(vectorizer.transform(group).mean(0))[0] for group in samples])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores: Floats = vectorizer.transform(prompts) @ means.T
    return scores


def hits(scores: Floats, own: Ints, clusters: Sequence[str]) -> dict[str, Bools]:
    """For each prompt whether the retrieval succeeds, by what counts as success, [n] each.

    Args:
        scores: [n, N]; of equal scores the lower number comes first, as in a stable sort.
        own: number of the adapter that was made for each prompt, [n].
        clusters: of each adapter, N.

    Returns:
        "top1", "top3", "top5", "top8": the own adapter is among the best; "cluster": the best one is of its cluster.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    is_own = order == own[:, None]
    names = np.array(clusters)
    found: dict[str, Bools] = {f"top{k}": is_own[:, :k].any(1) for k in TOPS}
    return {**found, "cluster": names[order[:, 0]] == names[own]}


def accuracy(found: Mapping[str, Bools], own: Ints) -> dict[str, float]:
    """Means over tasks of `hits`; empty when there is no prompt."""
    if not len(own):
        return {}
    return {name: round(float(task_means(values, own).mean()), 4) for name, values in found.items()}


def gain(found: Bools, reference: Bools, own: Ints) -> dict[str, float]:
    """Paired difference of two retrievers on the same prompts, with its 95 % bootstrap interval over tasks."""
    return estimate(task_means(found, own) - task_means(reference, own)).as_dict()


def compare(
    scores: Mapping[str, Floats], own: Ints, *, is_seen: Bools, clusters: Sequence[str], reference: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Retrievers beside each other, for tasks that were in their training and for those that were not.

    Args:
        scores: of each retriever, [n, N].
        own: number of the adapter that was made for each prompt, [n].
        is_seen: whether a task was in the retrievers' training, [N].
        clusters: of each adapter, N.
        reference: the retriever that the others are compared with.

    Returns:
        {retriever: {"seen" | "unseen": {"top1", "top3", "top5", "top8", "cluster": share, "top1_gain", "top3_gain":
        {"score", "low", "high"}}}}; groups without prompts are left out, and the reference has no gains.
    """
    found = {name: hits(values, own, clusters) for name, values in scores.items()}
    groups = {"seen": is_seen[own], "unseen": ~is_seen[own]}
    result: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in scores}
    for group, rows in groups.items():
        if not rows.any():
            continue
        for name, by_kind in found.items():
            figures: dict[str, Any] = accuracy({kind: values[rows] for kind, values in by_kind.items()}, own[rows])
            if name != reference:
                for kind in ("top1", "top3"):
                    figures[f"{kind}_gain"] = gain(by_kind[kind][rows], found[reference][kind][rows], own[rows])
            result[name][group] = figures
    return result
