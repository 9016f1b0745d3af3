"""Overlaps of a repository's updates as figures, and whether they tell which adapters disturb each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ramole.core.composition import PRESETS
from ramole.lab.evaluation.statistics import NUM_RESAMPLES
from ramole.lab.evaluation.subspaces import (
    MEASURES,
    REDUNDANT,
    Updates,
    clusters_of,
    joint_dimensions,
    overlaps,
    random_overlap,
)
from ramole.lab.evaluation.views import request

if TYPE_CHECKING:
    from ramole.lab.evaluation.answers import Answerer

Floats = npt.NDArray[np.float64]


def overlap_figures(names: Sequence[str], clusters: Sequence[str], adapters: Sequence[Updates]) -> dict[str, Any]:
    """Overlaps within and between clusters of tasks, redundant pairs, clusters by overlap, joint dimensions.

    Args:
        clusters: of each adapter's task.
    """
    from sklearn.metrics import adjusted_rand_score

    of = np.array(clusters)
    is_pair = ~np.eye(len(names), dtype=bool)
    is_near = (of[:, None] == of[None]) & is_pair
    found: dict[str, Any] = {"adapters": list(names), "overlap": {}, "dimensions": {}}
    for measure in MEASURES:
        values = overlaps(adapters, measure)
        labels = clusters_of(values, len(set(clusters)))
        found["overlap"][measure] = {
            "within": _mean(values[is_near]),
            "between": _mean(values[is_pair & ~is_near]),
            "random": round(random_overlap(adapters, measure), 4),
            "clusters": labels,
            "agreement": round(float(adjusted_rand_score(list(clusters), labels)), 4),
        }
        if measure == "cosine":
            found["redundant"] = [
                [names[i], names[j], round(float(values[i, j]), 4)]
                for i, j in zip(*np.nonzero(np.triu(values, 1) >= REDUNDANT), strict=True)
            ]
        else:
            found["dimensions"][measure] = _dimensions(joint_dimensions(adapters, measure))
    return found


def interference(answerer: Answerer, questions: Sequence[Sequence[int]]) -> Floats:
    """How much less likely answers get when another adapter is mixed in: NLL of the mean of both less own, [N, N].

    Args:
        questions: example numbers of each adapter's own prompts; adapter i is in slot i + 1.
    """
    size = len(questions)
    asked = [(q, i, j) for i in range(size) for j in range(size) for q in questions[i]]
    requests = [
        request(PRESETS["selection"], [i]) if i == j else request(PRESETS["mixture"], sorted((i, j)))
        for _, i, j in asked
    ]
    nll = answerer.outcomes([q for q, _, _ in asked], requests).nll
    found = np.zeros((size, size))
    np.add.at(found, ([i for _, i, _ in asked], [j for _, _, j in asked]), nll)
    found /= np.array([len(one) for one in questions])[:, None]
    return found - found.diagonal()[:, None]


def correlation(values: Floats, loss: Floats, mask: npt.NDArray[np.bool_], *, seed: int = 0) -> dict[str, float]:
    """Spearman's rank correlation over the pairs of `mask`, with its 95 % interval by resampling adapters."""
    from scipy.stats import spearmanr

    rows, columns = np.nonzero(mask)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_RESAMPLES // 8):
        weights = np.bincount(rng.integers(0, len(mask), len(mask)), minlength=len(mask))
        chosen = np.repeat(np.arange(len(rows)), weights[rows] * weights[columns])
        found.append(spearmanr(values[rows[chosen], columns[chosen]], loss[rows[chosen], columns[chosen]]).statistic)
    low, high = np.nanquantile(found, [0.025, 0.975])
    score = spearmanr(values[mask], loss[mask]).statistic
    return {"score": round(float(score), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def interference_figures(adapters: Sequence[Updates], clusters: Sequence[str], loss: Floats) -> dict[str, Any]:
    """Loss within and between clusters of tasks, and its correlation with each overlap, over all and within either."""
    of = np.array(clusters)
    is_pair = ~np.eye(len(of), dtype=bool)
    is_near = (of[:, None] == of[None]) & is_pair
    groups: Mapping[str, npt.NDArray[np.bool_]] = {"all": is_pair, "within": is_near, "between": is_pair & ~is_near}
    return {
        "loss": {name: _mean(loss[mask]) for name, mask in groups.items()},
        "correlation": {
            measure: {
                name: correlation(overlaps(adapters, measure), loss, mask)
                for name, mask in groups.items()
                if mask.sum() > 2
            }
            for measure in MEASURES
        },
    }


def _dimensions(by_module: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    keys = next(iter(by_module.values())).keys()
    mean = {key: round(float(np.mean([one[key] for one in by_module.values()])), 2) for key in keys}
    return {"mean": mean, "modules": {name: dict(one) for name, one in by_module.items()}}


def _mean(values: Floats) -> float | None:
    return round(float(values.mean()), 4) if values.size else None
