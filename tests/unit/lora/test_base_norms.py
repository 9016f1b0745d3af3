"""Norms of base weights: exact where they are small, close where they are sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ramole.lora.base_norms import read_base_norms


def test_exact_sampled_quantised_and_missing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "model.small.weight": torch.randn(30, 20, generator=generator),
        "model.large.weight": (torch.randn(3000, 16, generator=generator) * 0.02).bfloat16(),
        "h.backbone.weight": torch.ones(4, 4),
        "model.quantised.weight": torch.ones(8, 8, dtype=torch.int8),
        "model.zero.weight": torch.zeros(8, 8),
        "model.small.bias": torch.ones(30),
    }
    names = list(weights)
    save_file({name: weights[name] for name in names[:2]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: weights[name] for name in names[2:]}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "model-broken.safetensors").write_bytes(b"nothing of the kind")
    modules = ["model.small", "model.large", "transformer.h.backbone", "model.quantised", "model.zero", "model.absent"]
    norms = read_base_norms(str(tmp_path), modules)
    assert norms.keys() == {"model.small", "model.large", "transformer.h.backbone"}
    assert norms["model.small"] == pytest.approx(float(weights["model.small.weight"].norm()), rel=1e-6)
    assert norms["model.large"] == pytest.approx(float(weights["model.large.weight"].float().norm()), rel=0.05)
    assert norms["transformer.h.backbone"] == pytest.approx(4.0)
    assert read_base_norms("nobody/has-this-model", modules) == {}


def test_a_tied_weight_is_that_of_the_other_module_unless_it_has_its_own(tmp_path: Path) -> None:
    save_file({"embed.weight": torch.full((6, 4), 2.0), "own.weight": torch.ones(6, 4)}, tmp_path / "model.safetensors")
    tied = {"head": "model.embed", "own": "model.embed", "lost": "model.nowhere"}
    norms = read_base_norms(str(tmp_path), ["head", "own", "lost"], tied=tied)
    assert norms == {"head": pytest.approx(2 * 24**0.5), "own": pytest.approx(24**0.5)}
