"""Small repositories: the default beside SELECTION and the base, for prompts with and without an adapter.

Subsets of the adapters are drawn at random. In domain are the prompts of their own tasks; hidden are those of tasks
that none of them was made for. Only tasks that the retriever has not seen are asked, where there are enough of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.answers import Outcomes
from ramole.lab.evaluation.methods import Methods, own_k
from ramole.lab.evaluation.statistics import estimate, task_means
from ramole.lab.evaluation.views import View

SIZES = (2, 4, 8, 16)
NUM_DRAWS = 8
MIN_UNSEEN = 8
_MAX_PROMPTS = 40
"""Of each kind and draw."""
_NONE = np.zeros((0, 0), np.float32)


def few_adapters(
    methods: Methods,
    view: View,
    is_seen: npt.NDArray[np.bool_],
    default: str,
    *,
    sizes: Sequence[int] = SIZES,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """By size what the default, SELECTION and the base give; differences are paired over tasks.

    Args:
        view: all prompts and all adapters.
        is_seen: whether the retriever's training has seen an adapter, [N].
    """
    unseen = np.flatnonzero(~is_seen)
    asked = unseen if len(unseen) >= MIN_UNSEEN else np.arange(len(is_seen))
    return {
        str(size): _of_size(methods, view, asked, size, default, num_draws) for size in sizes if size < len(is_seen)
    }


def few_summary(figures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Exact match in domain of the default and of SELECTION; answers' NLL of the hidden, by default and base."""
    return {
        size: {
            "default": row["default"]["exact_match"]["score"],
            "selection": row["selection"]["exact_match"]["score"],
            "hidden_nll": row["default"]["hidden_nll"]["score"],
            "base_nll": row["base"]["hidden_nll"]["score"],
        }
        for size, row in figures.items()
    }


def _of_size(
    methods: Methods, view: View, asked: npt.NDArray[np.int64], size: int, default: str, num_draws: int
) -> dict[str, Any]:
    # Where too few tasks would be left to hide, others come in as adapters.
    num_asked = min(size, max(1, len(asked) - max(2, len(asked) // 4)))
    others = np.setdiff1d(np.arange(view.allowed.shape[1]), asked)
    is_asked = np.isin(view.own, asked)
    names = (default, "selection", "base")
    found: dict[tuple[str, bool], list[Outcomes]] = {(name, inside): [] for name in names for inside in (True, False)}
    owners: dict[bool, list[npt.NDArray[np.int64]]] = {True: [], False: []}
    for draw in range(num_draws):
        rng = Random(f"{size}/{draw}")
        chosen = rng.sample(asked.tolist(), num_asked)
        chosen += rng.sample(others.tolist(), min(len(others), size - num_asked))
        inside = np.zeros(view.allowed.shape[1], np.bool_)
        inside[chosen] = True
        cut = view.among(inside)
        for is_own in (True, False):
            rows = np.flatnonzero(is_asked & (inside[view.own] == is_own)).tolist()
            rows = sorted(rng.sample(rows, min(len(rows), _MAX_PROMPTS)))
            one = cut.of_rows(np.array(rows, np.int64))
            owners[is_own].append(one.own)
            for name in names:
                found[name, is_own] += methods.run(name, one, own_k(name), _NONE)
    own = {is_own: np.concatenate(each) for is_own, each in owners.items()}
    right = {key: task_means(np.concatenate([one.right for one in each]), own[key[1]]) for key, each in found.items()}
    nll = {key: task_means(np.concatenate([one.nll for one in each]), own[key[1]]) for key, each in found.items()}
    row: dict[str, Any] = {
        ("default" if name == default else name): {
            "exact_match": estimate(right[name, True]).as_dict(),
            "nll": estimate(nll[name, True]).as_dict(),
            "hidden_exact_match": estimate(right[name, False]).as_dict(),
            "hidden_nll": estimate(nll[name, False]).as_dict(),
        }
        for name in names
    }
    row["minus_selection"] = estimate(right[default, True] - right["selection", True]).as_dict()
    row["hidden_nll_minus_base"] = estimate(nll[default, False] - nll["base", False]).as_dict()
    return row
