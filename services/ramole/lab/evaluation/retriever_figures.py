"""The figures that a trained retriever carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.retrieval import Scoring, bm25_scores, compare, score, tfidf_scores
from ramole.lab.evaluation.wordings import Asked, Kind, asked, judge
from ramole.lab.training.retriever_job import ZERO_SHOT, Vectors
from ramole.lab.training.texts import AdapterTexts

FINAL = "trained"
"""Of the figures: the retriever as it is saved."""


def retriever_figures(
    texts: Sequence[AdapterTexts], is_seen: npt.NDArray[np.bool_], vectors: Mapping[str, Vectors], final: str
) -> dict[str, Any]:
    """See `retrieval.compare`: with and without training, with and without the map, every scoring of the final one.

    "wordings" holds the final one beside the encoder alone in other words, see `wordings.judge`: of tasks that were not
    trained on, where there are some.

    Args:
        is_seen: whether an adapter's texts were trained on, [N].
        vectors: of every retriever on the way; `final` names the one that is saved.
    """
    queries = [query for one in texts for query in one.queries]
    own = np.repeat(np.arange(len(texts)), [len(one.queries) for one in texts])
    samples = [one.samples for one in texts]
    scores = {name: score(one.queries, one.samples) for name, one in vectors.items()}
    scores |= {FINAL: scores[final], "bm25": bm25_scores(queries, samples), "tfidf": tfidf_scores(queries, samples)}
    for scoring in Scoring:
        if scoring is not Scoring.MEAN:
            scores[f"{FINAL}_{scoring}"] = score(vectors[final].queries, vectors[final].samples, scoring)
    clusters = [one.cluster for one in texts]
    figures: dict[str, Any] = compare(scores, own, is_seen=is_seen, clusters=clusters, reference=ZERO_SHOT)
    judged = {ZERO_SHOT: vectors[ZERO_SHOT], FINAL: vectors[final]}
    kinds = other_words(texts)
    ends = np.cumsum([len(one.texts) for one in kinds.values()])[:-1]
    kept = {kind: _unseen(is_seen)[one.own] for kind, one in kinds.items()}
    figures["wordings"] = judge(
        {kind: one.of_rows(kept[kind]) for kind, one in kinds.items()},
        {
            name: {kind: rows[kept[kind]] for kind, rows in zip(kinds, np.split(one.others, ends), strict=True)}
            for name, one in judged.items()
        },
        {name: one.samples for name, one in judged.items()},
        clusters=clusters,
        reference=ZERO_SHOT,
    )
    return figures


def other_words(texts: Sequence[AdapterTexts]) -> dict[Kind, Asked]:
    """What is asked beside the queries themselves."""
    own = np.repeat(np.arange(len(texts)), [len(one.queries) for one in texts])
    return asked([one.samples for one in texts], [query for one in texts for query in one.queries], own)


def more_texts(texts: Sequence[AdapterTexts]) -> list[str]:
    """The prompts of `other_words`, kind after kind."""
    return [text for one in other_words(texts).values() for text in one.texts]


def _unseen(is_seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return ~is_seen if not is_seen.all() else np.ones_like(is_seen)
