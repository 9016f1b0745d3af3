"""Methods: each one equals SELECTION where only one adapter may be used; rivals are what their papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ramole.core.composition import PRESETS
from ramole.lab.evaluation import rivals
from ramole.lab.evaluation.evaluate import Bench
from ramole.lab.evaluation.lorahub import BOUND, search_weights
from ramole.lab.evaluation.methods import METHODS, random_router
from ramole.lab.evaluation.views import View, pool_request, request


def views(bench: Bench, seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    n, adapters = bench.num_tests, len(bench.subject.entries)
    similarities = rng.uniform(0, 0.3, (n, adapters)).astype(np.float32)
    similarities[np.arange(n), bench.own] += 0.2
    return View(np.arange(n), bench.own, similarities, np.ones((n, adapters), np.bool_))


def test_with_one_adapter_in_the_pool_every_method_is_that_adapter(bench: Bench) -> None:
    view = views(bench)
    allowed = np.zeros_like(view.allowed)
    allowed[:, 0] = True
    view = View(view.questions, view.own, view.similarities, allowed)
    task_similarities = np.ones((6, 6), np.float32)
    wanted = bench.methods.run("selection", view, 1, task_similarities)[0]
    for name in METHODS:
        if name not in ("base", "perfect", "lorahub"):
            for found in bench.methods.run(name, view, 3, task_similarities):
                np.testing.assert_allclose(found.nll, wanted.nll, rtol=1e-3, atol=1e-4, err_msg=name)
    base = bench.methods.run("base", view, 0, task_similarities)[0]
    assert np.abs(base.nll - wanted.nll).max() > 0.1


def test_the_oracle_is_the_best_single_adapter(bench: Bench) -> None:
    view, none = views(bench), np.zeros((6, 6), np.float32)
    found = bench.methods.run("best_of_k", view, 6, none)[0]
    answerer = bench.methods.answerer
    singles = [
        answerer.outcomes(view.questions.tolist(), [request(PRESETS["selection"], [i])] * len(view.questions))
        for i in range(6)
    ]
    np.testing.assert_array_equal(found.nll, np.min([single.nll for single in singles], axis=0))
    assert found.right.tolist() == np.any([single.right for single in singles], axis=0).tolist()
    perfect = bench.methods.run("perfect", view, 0, none)[0]
    assert (found.right >= perfect.right).all()


def test_without_own_hides_exactly_that_adapter(bench: Bench) -> None:
    view = views(bench).without_own()
    nearest = view.nearest(6)
    assert all(own not in row and len(row) == 5 for own, row in zip(view.own.tolist(), nearest, strict=True))
    assert nearest[0] == sorted(nearest[0], key=lambda i: -view.similarities[0, i])
    inside = view.within(np.array([True, True, True, False, False, False]))
    assert set(inside.own.tolist()) == {0, 1, 2}
    assert all(set(pool) <= {0, 1, 2} for pool in inside.pools())


def test_arrow_projects_on_the_first_singular_vector(bench: Bench) -> None:
    mixture = bench.methods.answerer.mixture
    probes = rivals.arrow_probes(mixture)
    checked = 0
    for module in list(mixture.modules.values())[:4]:
        for slot in np.flatnonzero(module.ranks).tolist():
            a, b = module.lora_a[slot], module.lora_b[slot].T
            first = torch.linalg.svd(b @ a).Vh[0]
            x = torch.randn(5, a.shape[1])
            got = (x @ a.T) @ probes[module.index][slot]
            torch.testing.assert_close(got.abs(), (x @ first).abs(), rtol=1e-3, atol=1e-3)
            checked += 1
    assert checked > 4


def test_top_keeps_the_largest_and_a_sum_of_one() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    torch.testing.assert_close(rivals.top(weights, 2), torch.tensor([[0.625, 0.375, 0.0, 0.0]]))
    torch.testing.assert_close(rivals.top(weights, 0), weights)


@pytest.mark.parametrize("form", [rivals.MoeForm, pytest.param(rivals.SmearForm, marks=pytest.mark.slow)])
def test_a_gate_learns_and_leaves_the_model_alone(bench: Bench, form: type[rivals.MoeForm | rivals.SmearForm]) -> None:
    methods, answerer = bench.methods, bench.methods.answerer
    tasks = [[answerer.examples[q] for q in methods.shots[task]] for task in range(3)]
    questions = [q for task in range(3) for q in methods.shots[task][:8]]
    pool = [pool_request([0, 1, 2])] * len(questions)
    losses = []
    for steps in (0, 15):
        gate = rivals.train_gate(
            answerer.model, answerer.mixture, tasks, [1, 2, 3], form, pad=answerer.pad, seed=0, steps=steps
        )
        found = answerer.rival_outcomes(questions, pool, lambda plan, batch, gate=gate: form(plan, batch, gate))
        losses.append(float(found.nll.mean()))
    assert losses[1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in answerer.model.parameters())


def test_lorahub_finds_weights_that_fit_its_examples(bench: Bench) -> None:
    methods, answerer = bench.methods, bench.methods.answerer
    shots, pools = [methods.shots[0][:5], methods.shots[1][:5]], [[0, 1, 2], [0, 1]]
    found = search_weights(answerer, shots, pools, seed=0, rounds=4, population=8)
    for (adapters, weights), pool, questions in zip(found, pools, shots, strict=True):
        assert adapters == pool
        assert np.abs(weights).max() <= BOUND
        zero = answerer.outcomes(questions, [pool_request(adapters, [0.0] * len(adapters))] * 5).nll.mean()
        assert answerer.outcomes(questions, [pool_request(adapters, weights)] * 5).nll.mean() < zero


def test_a_random_gate_is_far_from_uniform(bench: Bench) -> None:
    answerer = bench.methods.answerer
    answerer.use_router("random 0", random_router(answerer.mixture, 0))
    routed, uniform = (
        answerer.outcomes([0, 1], [request(PRESETS[name], [0, 1, 2])] * 2).nll for name in ("ramole", "mixture")
    )
    assert np.abs(routed - uniform).min() > 1e-3
