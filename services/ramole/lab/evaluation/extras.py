"""Beyond the table: prompts that need two skills, a growing repository, gate weights, a map, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.core.composition import PRESETS, REROUTED_PRESET, Composition, Merge, Weighting
from ramole.lab.bench.executor.module_cases import EINSUM, OURS, run_module_case
from ramole.lab.bench.executor.options import ModuleCase
from ramole.lab.evaluation.in_parts import InParts
from ramole.lab.evaluation.methods import COMPOSITIONS, Methods, own_k
from ramole.lab.evaluation.statistics import estimate, task_means
from ramole.lab.evaluation.views import View, request
from ramole.lab.training.lm import answer_scores
from ramole.mixture.plan import build_step_plan
from ramole.retrieval.doubt import Doubt

FloatArray = npt.NDArray[np.floating]
GROWTH_METHODS = ("perfect", "selection", "mixture", "fusion", "ramole", "ramole_prior")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

BOUND, NAMED_REROUTED, REROUTED = "each part by its own", "both named, in parts", "retrieved, in parts"


def two_skill(
    methods: Methods,
    questions: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    similarities: FloatArray,
    in_parts: InParts,
    doubt: Doubt | None = None,
) -> dict[str, Any]:
    """Prompts that need two adapters at once: what their two own adapters give when named, and what retrieval gives.

    At once, and in parts: see `in_parts`.

    Intervals are over pairs of adapters.

    Args:
        similarities: of the prompts to all adapters, [n, N].
        doubt: that of the repository.
    """
    answerer, n = methods.answerer, len(questions)
    groups = np.unique(np.array(pairs), axis=0, return_inverse=True)[1].reshape(-1)
    view = View(
        np.array(questions),
        np.array([a for a, _ in pairs]),
        similarities,
        np.ones(similarities.shape, np.bool_),
        doubt=doubt,
    )
    one = [answerer.outcomes(questions, [request(PRESETS["selection"], [pair[i]]) for pair in pairs]) for i in (0, 1)]
    found: dict[str, list[npt.NDArray[Any]]] = {
        "base": [o.right for o in methods.run("base", view, 0, similarities)],
        "best of the two alone": [np.maximum(one[0].right, one[1].right)],
    }
    named = {
        "mixture": PRESETS["mixture"],
        "fusion": PRESETS["fusion"],
        "sum": Composition(Weighting.EXPLICIT, Merge.OUTPUTS, k=2),
    }
    for name, composition in named.items():
        outcomes = answerer.outcomes(questions, [request(composition, list(pair)) for pair in pairs])
        found[f"both named, {name}"] = [outcomes.right]
    routers = {"ramole": methods.routers, "random_gate": methods.random_routers()}
    for name, choices in routers.items():
        if choices:
            found[f"both named, {name}"] = []
        for router, weights in choices.items():
            answerer.use_router(router, weights)
            outcomes = answerer.outcomes(questions, [request(PRESETS["ramole"], list(pair)) for pair in pairs])
            found[f"both named, {name}"].append(outcomes.right)
    for name in ("selection", "mixture", "fusion", "random_gate", *COMPOSITIONS):
        if f"retrieved, {name}" not in found and name in methods.names():
            found[f"retrieved, {name}"] = [o.right for o in methods.run(name, view, own_k(name), similarities)]
    alone = PRESETS[REROUTED_PRESET]
    found[BOUND] = [in_parts.bound(pairs, alone).right]
    found[NAMED_REROUTED] = [in_parts.rerouted(alone, named=pairs).right]
    for name in (REROUTED_PRESET, "hedged", "calibrated"):
        found[f"{REROUTED}, {name}"] = [in_parts.rerouted(PRESETS[name]).right]
    nearest = view.nearest(3)
    both = np.mean([set(pair) <= set(row) for pair, row in zip(pairs, nearest, strict=True)])
    scores = {
        name: np.mean([task_means(np.asarray(right, np.float64), groups) for right in seeds], axis=0)
        for name, seeds in found.items()
    }
    uniform = scores["both named, mixture"]
    return {
        "num_prompts": n,
        "num_pairs": int(groups.max()) + 1,
        "both_among_top3": round(float(both), 4),
        "methods": {
            name: {**estimate(values).as_dict(), "minus_both_named_mixture": estimate(values - uniform).as_dict()}
            for name, values in scores.items()
        },
    }


def growth(methods: Methods, view: View, default: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Exact match on the tasks of the first n adapters, with only these in the repository.

    Adapters of router training come first, so the last ones are new to everything that was trained.
    """
    order = np.argsort(~methods.trained, kind="stable")
    found = []
    none = np.zeros((0, 0), np.float32)
    for size in sizes:
        inside = np.zeros(len(order), np.bool_)
        inside[order[:size]] = True
        seen = view.within(inside)
        row: dict[str, Any] = {"num_adapters": size, "num_unseen": int((~methods.trained[order[:size]]).sum())}
        for name in dict.fromkeys((*GROWTH_METHODS, default)):
            if name in methods.names():
                outcomes = methods.run(name, seen, own_k(name), none)
                means = np.mean([task_means(one.right, seen.own) for one in outcomes], axis=0)
                row[name] = estimate(means).as_dict()
        found.append(row)
    return found


def growth_sizes(num_adapters: int) -> list[int]:
    """8, 16, 32, ... and all."""
    sizes = [8 * 2**i for i in range(16) if 8 * 2**i < num_adapters]
    return [*sizes, num_adapters]


def gate_weights(methods: Methods, view: View, composition: Composition, *, limit: int = 256) -> dict[str, Any]:
    """The mean weight that each layer gives to the first, second, ... retrieved adapter, and to the own one.

    Only the tokens that predict the answer would matter for the score; all tokens of the prompt are counted, as in the
    usage report of a server.
    """
    answerer = methods.answerer
    rows = np.linspace(0, len(view.questions) - 1, min(limit, len(view.questions))).astype(int)
    view = view.of_rows(rows)
    if composition.weighting.is_routed:
        name, router = next(iter(methods.routers.items()))
        answerer.use_router(name, router)
    by_rank: list[FloatArray] = []
    own: list[FloatArray] = []
    by_adapter: dict[int, list[FloatArray]] = {}
    requests = view.compose(composition)
    for question, mixture, owner in zip(view.questions.tolist(), requests, view.own.tolist(), strict=True):
        batch = answerer.collate([question])
        with answerer.mixture.running(build_step_plan([mixture], [batch.ids.shape[1]])) as step:
            answer_scores(answerer.model, batch)
        if step is None:  # nothing was retrieved
            continue
        weights, counts = answerer.mixture.usage(step)  # [L, 1, k], [L, 1]
        share = weights[:-1, 0] / np.maximum(counts[:-1], 1)
        by_rank.append(share)
        for place, slot in enumerate(mixture.slots):
            by_adapter.setdefault(slot - 1, []).append(share[:, place])
            if slot - 1 == owner:
                own.append(share[:, place])
    return {
        "by_rank": np.mean(by_rank, axis=0).round(4).tolist(),
        "own": np.mean(own, axis=0).round(4).tolist() if own else [],
        "by_adapter": {str(i): np.mean(rows, axis=0).round(4).tolist() for i, rows in sorted(by_adapter.items())},
    }


def throughput(*, width: int, rounds: int, sizes: Sequence[int] = BATCH_SIZES) -> list[dict[str, Any]]:
    """Decode steps of one module for growing batches, k = 3 routed: ours and the paper's masked form, side by side.

    Every request brings its own adapters, up to 32 of them.
    """
    import torch

    found = []
    for b in sizes:
        case = ModuleCase(f"decode b={b}", width, b, 1, min(32, 3 * b), 3, rounds=rounds, repeats=4)
        result = run_module_case(case, torch.device("cpu"))
        seconds = {name: result["contestants"][name]["median_s"] for name in (OURS, EINSUM)}
        found.append(
            {
                "batch": b,
                "adapters": result["case"]["p"],
                "tokens_per_s": {name: round(b / s, 1) for name, s in seconds.items()},
                "ramole_is_faster_by": round(result["contestants"][EINSUM]["ramole_is_faster_by"], 3),
                "outputs_equal": result["outputs_equal"],
            }
        )
    return found


def adapter_map(points: FloatArray, queries: FloatArray, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Adapters [N, dim] and queries [n, dim] in two dimensions, by t-SNE of all of them together."""
    from sklearn.manifold import TSNE

    together = np.concatenate([points, queries])
    perplexity = min(30, (len(together) - 1) / 3)
    flat = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, metric="cosine").fit_transform(together)
    return flat[: len(points)], flat[len(points) :]
