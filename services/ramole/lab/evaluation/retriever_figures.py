"""The figures that a trained retriever carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.retrieval import Scoring, bm25_scores, compare, score, tfidf_scores
from ramole.lab.training.retriever_job import ZERO_SHOT, Vectors
from ramole.lab.training.texts import AdapterTexts

FINAL = "trained"
"""Of the figures: the retriever as it is saved."""


def retriever_figures(
    texts: Sequence[AdapterTexts], is_seen: npt.NDArray[np.bool_], vectors: Mapping[str, Vectors], final: str
) -> dict[str, Any]:
    """See `retrieval.compare`: with and without training, with and without the map, every scoring of the final one.

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
    return compare(scores, own, is_seen=is_seen, clusters=clusters, reference=ZERO_SHOT)
