"""Overlap of updates and the dimension of their joint space, on spaces that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ramole.cli import app
from ramole.core.composition import PRESETS
from ramole.lab.evaluation.evaluate import Bench
from ramole.lab.evaluation.overlap_report import interference, interference_figures, overlap_figures
from ramole.lab.evaluation.subspaces import (
    MEASURES,
    Update,
    angles,
    clusters_of,
    joint_dimensions,
    overlap,
    overlaps,
    random_overlap,
)
from ramole.lab.evaluation.views import request
from ramole.lora.weights import LoraPair

WIDTH, RANK = 24, 3


def pair(seed: int, rank: int = RANK) -> LoraPair:
    generator = torch.Generator().manual_seed(seed)
    return LoraPair(torch.randn(rank, WIDTH, generator=generator), torch.randn(WIDTH, rank, generator=generator))


def update(seed: int, rank: int = RANK) -> Update:
    return Update.of(pair(seed, rank))


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_the_parts_of_an_update_make_it(seed: int, rank: int) -> None:
    one = pair(seed, rank)
    parts = Update.of(one)
    whole = (one.b.double() @ one.a.double()).numpy()
    assert np.allclose(parts.left * parts.values @ parts.right.T, whole, atol=1e-8)
    assert parts.norm == pytest.approx(np.linalg.norm(whole))
    for basis in (parts.left, parts.right):
        assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_overlaps_are_symmetric_and_one_with_oneself(seed: int, other: int) -> None:
    a, b = update(seed), update(other)
    for measure in MEASURES:
        assert overlap(a, a, measure) == pytest.approx(1)
        assert overlap(a, b, measure) == pytest.approx(overlap(b, a, measure))
        assert -1 - 1e-9 <= overlap(a, b, measure) <= 1 + 1e-9


def test_the_cosine_is_that_of_whole_matrices() -> None:
    a, b = pair(1), pair(2)
    one, other = ((p.b.double() @ p.a.double()).numpy().ravel() for p in (a, b))
    wanted = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert overlap(Update.of(a), Update.of(b), "cosine") == pytest.approx(wanted)


def test_angles_of_known_spaces() -> None:
    axes = np.eye(WIDTH)
    tilted = np.stack([axes[0], (axes[1] + axes[2]) / 2**0.5], axis=1)
    assert angles(axes[:, :2], tilted) == pytest.approx([0, np.pi / 4], abs=1e-7)
    assert angles(axes[:, :2], axes[:, 2:4]) == pytest.approx([np.pi / 2] * 2)


def test_random_spaces_overlap_by_chance() -> None:
    adapters = [{"m": update(seed)} for seed in range(40)]
    found = overlaps(adapters, "rows")
    others = found[~np.eye(40, dtype=bool)]
    assert others.mean() == pytest.approx(random_overlap(adapters, "rows"), rel=0.1)
    assert (found.diagonal() == 1).all()


def test_adapters_of_one_space_need_no_more_dimensions_than_one() -> None:
    shared = pair(0)
    generator = torch.Generator().manual_seed(9)
    same = [
        {"m": Update.of(LoraPair(torch.randn(RANK, RANK, generator=generator) @ shared.a, shared.b))} for _ in range(8)
    ]
    apart = [{"m": update(seed)} for seed in range(100, 108)]
    assert joint_dimensions(same, "rows")["m"]["99%"] <= RANK
    assert joint_dimensions(apart, "rows")["m"]["99%"] > 5 * RANK
    assert overlaps(same, "rows").min() == pytest.approx(1)
    found = clusters_of(overlaps([*same, *apart[:2]], "rows"), 3)
    assert found == [0] * 8 + [1, 2]


def test_adapters_without_a_common_module_do_not_overlap() -> None:
    found = overlaps([{"a": update(0)}, {"b": update(0)}], "rows")
    assert found.tolist() == [[1, 0], [0, 1]]


def test_a_map_says_what_is_redundant_and_who_goes_together() -> None:
    """Two tasks of one cluster share a space, a copy is redundant, the other cluster's spaces are its own."""
    shared = pair(0)
    generator = torch.Generator().manual_seed(3)

    def near() -> LoraPair:
        return LoraPair(shared.a + 0.2 * torch.randn(RANK, WIDTH, generator=generator), shared.b)

    adapters = [{"m": Update.of(one)} for one in (near(), near(), near(), pair(50), pair(50))]
    found = overlap_figures(list("abcde"), ["x", "x", "x", "y", "y"], adapters)
    assert ["d", "e", 1.0] in found["redundant"]
    for measure in MEASURES:
        assert found["overlap"][measure]["within"] > found["overlap"][measure]["between"] + 0.3
        assert found["overlap"][measure]["agreement"] == 1
    assert found["dimensions"]["columns"]["mean"]["99%"] == 2 * RANK


def test_loss_that_follows_overlap_correlates_with_it() -> None:
    adapters = [{"m": update(seed)} for seed in range(12)]
    loss = -overlaps(adapters, "rows")
    found = interference_figures(adapters, ["x"] * 12, loss)
    assert found["correlation"]["rows"]["all"]["score"] == pytest.approx(-1)
    assert found["correlation"]["rows"]["all"]["high"] < -0.9
    assert abs(found["correlation"]["columns"]["all"]["score"]) < 0.6
    assert found["loss"]["between"] is None


def test_interference_is_what_a_mixture_loses(bench: Bench) -> None:
    answerer = bench.methods.answerer
    questions = [np.flatnonzero(bench.own == i).tolist()[:2] for i in range(3)]
    loss = interference(answerer, questions)
    assert (loss.diagonal() == 0).all()
    both = answerer.outcomes(questions[0], [request(PRESETS["mixture"], [0, 2])] * 2).nll.mean()
    own = answerer.outcomes(questions[0], [request(PRESETS["selection"], [0])] * 2).nll.mean()
    assert loss[0, 2] == pytest.approx(both - own, abs=1e-5)


def test_the_commands_say_it_in_a_table_and_in_json(adapters: Path) -> None:
    first = sorted(path.name for path in adapters.iterdir())[0]
    run = CliRunner().invoke
    rows = json.loads(run(app, ["adapters", "similar", first, "--adapters", str(adapters), "--json"]).stdout)
    assert len(rows) == 5
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)
    done = run(app, ["adapters", "map", "--adapters", str(adapters)])
    assert done.exit_code == 0, done.output
    assert "random spaces" in done.output
    assert "redundant pairs: none" in done.output
    missing = run(app, ["adapters", "similar", "nobody", "--adapters", str(adapters)])
    assert missing.exit_code == 1
    refused = run(app, ["adapters", "map", "--interference", "--adapters", str(adapters)])
    assert refused.exit_code == 1
