"""What we read is what PEFT computes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def merged_logits(base: LlamaForCausalLM, weights: AdapterWeights, tokens: torch.Tensor) -> torch.Tensor:
    model = copy.deepcopy(base)
    for name, pair in weights.pairs.items():
        model.get_submodule(name).weight.data += pair.b.float() @ pair.a.float()
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": ALL_LINEAR},
        {"use_rslora": True},
        {"lora_alpha": 7.5},
        {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 8}},
        {"alpha_pattern": {"v_proj": 3, "q_proj": 40}},
        {"alpha_pattern": {"v_pro": 99}},
        {"rank_pattern": {r".*\.0\..*": 3, "q_proj": 6}, "alpha_pattern": {r"layers\.[1-9]\.self_attn\.(q|k)_proj": 2}},
        {"rank_pattern": {"^model.layers.0.self_attn.q_proj": 5}, "use_rslora": True},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)
def test_logits_equal_peft(
    config: dict[str, Any], base_model: LlamaForCausalLM, tokens: torch.Tensor, make_adapter: Any
) -> None:
    config_json, tensors, expected = make_adapter(**config)
    weights = read_adapter(config_json, tensors)
    with torch.no_grad():
        bare = base_model(tokens).logits
    torch.testing.assert_close(merged_logits(base_model, weights, tokens), expected, rtol=1e-4, atol=1e-4)
    assert (bare - expected).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(
    dtype: torch.dtype, base_model: LlamaForCausalLM, tokens: torch.Tensor, make_adapter: Any
) -> None:
    config_json, tensors, expected = make_adapter(dtype=dtype, lora_alpha=16)
    weights = read_adapter(config_json, memoryview(tensors))
    assert {t.dtype for pair in weights.pairs.values() for t in (pair.a, pair.b)} == {dtype}
    # alpha / r = 4: folding a power of two into b is exact
    torch.testing.assert_close(merged_logits(base_model, weights, tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("alpha", "size"), [(7, 1.0), (3e-4, 3e4), (1e5, 2e-5)])
def test_a_scaling_that_half_precision_cannot_hold_costs_no_precision(
    dtype: torch.dtype, alpha: float, size: float, base_model: LlamaForCausalLM, tokens: torch.Tensor, make_adapter: Any
) -> None:
    """As in PEFT, which keeps the scaling apart."""
    config_json, tensors, expected = make_adapter(dtype=dtype, lora_alpha=alpha, size=size)
    weights = read_adapter(config_json, tensors)
    with torch.no_grad():
        bare = base_model(tokens).logits
    torch.testing.assert_close(merged_logits(base_model, weights, tokens), expected, rtol=2e-5, atol=2e-5)
    assert (bare - expected).abs().max() > 0.05


def test_tensors_are_copies_and_counted(make_adapter: Any) -> None:
    config_json, tensors, _ = make_adapter(target_modules=["q_proj"])
    data = bytearray(tensors)
    weights = read_adapter(config_json, memoryview(data))
    before = [pair.a.clone() for pair in weights.pairs.values()]
    data[:] = bytes(len(data))
    assert all(torch.equal(pair.a, old) for pair, old in zip(weights.pairs.values(), before, strict=True))
    assert weights.rank == 4
    assert weights.num_bytes == 2 * 4 * (4 * 32 + 32 * 4)
