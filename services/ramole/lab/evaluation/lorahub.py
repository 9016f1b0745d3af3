"""LoRAHub: weights of some adapters for a whole task, found without gradients from a few solved examples.

Huang et al., "LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition": 20 adapters drawn at random,
parameters merged, weights in [-1.5, 1.5], loss + .05 sum |w|. Their optimiser is replaced by a plain evolution
strategy over all tasks at once, so that one batch holds many candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ramole.lab.evaluation.answers import Answerer
from ramole.lab.evaluation.views import pool_request
from ramole.mixture.plan import RequestMixture

NUM_ADAPTERS = 20
NUM_SHOTS = 5
BOUND = 1.5
PENALTY = 0.05


def search_weights(
    answerer: Answerer,
    shots: Sequence[Sequence[int]],
    pools: Sequence[Sequence[int]],
    *,
    seed: int,
    rounds: int,
    population: int,
) -> list[tuple[list[int], list[float]]]:
    """Searches for each task on its own.

    Args:
        shots: example numbers of each task's few solved examples.
        pools: adapters that each task may use.

    Returns:
        The drawn adapters and their weights, for each task.
    """
    rng = np.random.default_rng(seed)
    drawn = [sorted(rng.choice(pool, size=min(NUM_ADAPTERS, len(pool)), replace=False).tolist()) for pool in pools]
    best = [np.zeros(len(adapters)) for adapters in drawn]
    best_loss = [np.inf] * len(drawn)
    for number in range(rounds):
        sigma = 0.5 * (1 - number / rounds)
        tried = [
            [np.clip(mean + sigma * rng.standard_normal(len(mean)), -BOUND, BOUND) for _ in range(population)]
            for mean in best
        ]
        if number == 0:
            tried = [[mean, *rest[1:]] for mean, rest in zip(best, tried, strict=True)]
        questions: list[int] = []
        requests: list[RequestMixture] = []
        for adapters, weights, examples in zip(drawn, tried, shots, strict=True):
            for w in weights:
                questions += examples
                requests += [pool_request(adapters, w.tolist())] * len(examples)
        losses = iter(answerer.outcomes(questions, requests).nll.tolist())
        for task, (weights, examples) in enumerate(zip(tried, shots, strict=True)):
            for w in weights:
                loss = np.mean([next(losses) for _ in examples]) + PENALTY * np.abs(w).sum()
                if loss < best_loss[task]:
                    best[task], best_loss[task] = w, loss
    return [(adapters, w.tolist()) for adapters, w in zip(drawn, best, strict=True)]
