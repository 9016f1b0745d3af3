"""The joint space of some experts: the best of its size, and nothing is lost where there is one expert."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ramole.core.composition import PRESETS
from ramole.lab.evaluation.evaluate import Bench
from ramole.lab.evaluation.joint import JointForm, JointSpaces
from ramole.lab.evaluation.views import request
from ramole.mixture.plan import RequestMixture

CASES = [RequestMixture((1,), (1.0,), (1.0,)), RequestMixture((1, 1), (0.25, 0.75), (1.0, 1.0))]


@pytest.mark.parametrize("mixture", CASES, ids=["alone", "with itself"])
def test_the_space_of_one_adapter_loses_nothing(bench: Bench, mixture: RequestMixture) -> None:
    answerer, questions = bench.methods.answerer, list(range(4))
    spaces = JointSpaces()
    found = answerer.rival_outcomes(questions, [mixture] * 4, lambda plan, batch: JointForm(plan, batch, spaces))
    wanted = answerer.outcomes(questions, [request(PRESETS["selection"], [0])] * 4)
    assert np.abs(found.nll - wanted.nll).max() < 1e-3


def test_the_space_of_several_is_the_best_of_its_size(bench: Bench) -> None:
    module = next(m for m in bench.methods.answerer.mixture.modules.values() if m.ranks[1:4].all())
    left, right, cores = JointSpaces().factors(module, [1, 2, 3])
    rank = int(module.ranks[1:4].max())
    assert left.shape[1] == right.shape[1] == rank
    for basis in (left, right):
        assert torch.allclose(basis.T @ basis, torch.eye(rank), atol=1e-5)
    # An oracle on whole matrices.
    whole = [module.lora_b[slot].double().T @ module.lora_a[slot].double() for slot in (1, 2, 3)]
    stacked = torch.cat([one / one.norm() for one in whole], 1)
    kept = sum(float((left.double().T @ one / one.norm()).pow(2).sum()) for one in whole)
    assert kept == pytest.approx(float(torch.linalg.svdvals(stacked)[:rank].pow(2).sum()), rel=1e-5)
    for core, one in zip(cores, whole, strict=True):
        assert torch.allclose(core.double(), left.double().T @ one @ right.double(), atol=1e-5)


@pytest.mark.parametrize("name", ["subspace", "subspace_nearest"])
def test_they_are_methods_like_others(bench: Bench, name: str) -> None:
    from ramole.lab.memory_index import MemoryIndex

    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((3, 8)).astype(np.float32) for _ in bench.subject.entries]
    samples = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in samples]
    means = np.stack([one.mean(0) for one in samples])
    index = MemoryIndex(lambda texts: np.ones((len(texts), 8), np.float32) / 8**0.5, tuple(samples), means)
    view = bench.view(index).of_rows(np.arange(4))
    [found] = bench.methods.run(name, view, 3, np.zeros((0, 0), np.float32))
    assert np.isfinite(found.nll).all()
    [alone] = bench.methods.run(name, view, 1, np.zeros((0, 0), np.float32))
    [nearest] = bench.methods.run("selection", view, 1, np.zeros((0, 0), np.float32))
    assert np.abs(alone.nll - nearest.nll).max() < 1e-3
