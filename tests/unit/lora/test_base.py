"""Shapes are those of the real modules, and no weight is needed to know them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from ramole.core.errors import WrongState
from ramole.lora.base import read_base_shapes
from ramole.lora.digest import content_digest


def test_linear_shapes_without_weights(base_model: LlamaForCausalLM, tmp_path: Path) -> None:
    base_model.config.save_pretrained(tmp_path)
    shapes = read_base_shapes(str(tmp_path), "tiny")
    assert shapes.base_id == "tiny"
    expected = {
        name: (module.in_features, module.out_features)
        for name, module in base_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert dict(shapes.modules) == expected
    assert shapes.modules["model.layers.1.mlp.down_proj"] == (48, 32)


def test_conv1d_shapes_are_in_out(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=24, n_layer=1, n_head=2, vocab_size=32, n_positions=16)
    config.save_pretrained(tmp_path)
    shapes = read_base_shapes(str(tmp_path), "gpt2")
    module = GPT2LMHeadModel(config).get_submodule("transformer.h.0.attn.c_attn")
    assert shapes.modules["transformer.h.0.attn.c_attn"] == (24, 72) == tuple(module.weight.shape)


def test_unreadable_base_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WrongState, match="does not describe a causal language model"):
        read_base_shapes(str(tmp_path), "none")


def test_digest_keeps_the_files_apart() -> None:
    assert content_digest(b"ab", b"c") != content_digest(b"a", b"bc")
    assert content_digest(b"a", b"bc") == content_digest(b"a", memoryview(b"bc"))
    assert len(content_digest(b"", b"")) == 64


def test_everything_is_read_at_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub cache that holds two commits of one model, as the hub's own library lays it out."""
    cache = tmp_path / "models--org--tiny"
    weights = {"a" * 40: 1.0, "b" * 40: 2.0}
    for commit, value in weights.items():
        model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8))
        model.get_submodule("transformer.h.0.attn.c_attn").weight.data.fill_(value)
        model.save_pretrained(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for revision, value in (("", 1.0), ("b" * 40, 2.0)):
        shapes = read_base_shapes("org/tiny", "tiny", revision)
        weight = shapes.read_weight("transformer.h.0.attn.c_attn")
        assert weight is not None
        assert weight.unique().tolist() == [value]
        assert shapes.norms["transformer.h.0.attn.c_attn"] == pytest.approx(value * (8 * 24) ** 0.5)
