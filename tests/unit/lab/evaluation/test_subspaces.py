"""Overlap of updates and the dimension of their joint space, on spaces that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    apart = [{"m": update(seed)} for seed in range(8)]
    assert joint_dimensions(same, "rows")["m"]["99%"] <= RANK
    assert joint_dimensions(apart, "rows")["m"]["99%"] > 5 * RANK
    assert overlaps(same, "rows").min() == pytest.approx(1)
    found = clusters_of(overlaps([*same, *apart[:2]], "rows"), 3)
    assert found == [0] * 8 + [1, 2]


def test_adapters_without_a_common_module_do_not_overlap() -> None:
    found = overlaps([{"a": update(0)}, {"b": update(0)}], "rows")
    assert found.tolist() == [[1, 0], [0, 1]]
