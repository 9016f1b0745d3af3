"""An adapter of the output head, as PEFT saves it: with the base's own weight beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, save
from transformers import LlamaConfig, LlamaForCausalLM

from ramole.core.errors import AdapterRefused
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes, read_base_shapes

KEY = "base_model.model.lm_head.base_layer.weight"
LIMITS = AdmissionLimits(max_rank=8)


@pytest.fixture(params=[False, True], ids=["own head", "tied head"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[BaseShapes, bytes, dict[str, torch.Tensor]]:
    """A base checkpoint, and config and tensors of an adapter of its lm_head that PEFT saved."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=32,
        tie_word_embeddings=request.param,
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config_json = json.dumps(written | {"base_model_name_or_path": "tiny"}).encode()
    tensors = load((tmp_path / "adapter" / "adapter_model.safetensors").read_bytes())
    assert KEY in tensors
    return read_base_shapes(str(tmp_path / "base"), "tiny"), config_json, tensors


@pytest.mark.filterwarnings("ignore")
def test_the_unchanged_base_weight_is_accepted_and_dropped(saved: Any) -> None:
    base, config, tensors = saved
    admitted = admit(config, save(tensors), base, LIMITS)
    assert "lm_head" in admitted.report.modules
    assert admitted.weights.pairs["lm_head"].a.shape == (2, 16)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["one value", "shape", "unreadable base"])
def test_any_other_base_weight_is_refused(saved: Any, change: str) -> None:
    base, config, tensors = saved
    if change == "one value":
        tensors[KEY] = tensors[KEY].clone()
        tensors[KEY][3, 5] += 1e-6
    elif change == "shape":
        tensors[KEY] = tensors[KEY][:-1].clone()
    else:
        base = BaseShapes(base.base_id, base.modules)
    with pytest.raises(AdapterRefused, match="lm_head") as raised:
        admit(config, save(tensors), base, LIMITS)
    assert raised.value.field == "adapter_model.safetensors"


@pytest.mark.filterwarnings("ignore")
def test_the_update_of_a_head_is_measured_by_its_weight(saved: Any) -> None:
    base, config, tensors = saved
    report = admit(config, save(tensors), base, LIMITS).report
    assert report.relative_norm is not None
    b, a = (f"base_model.model.lm_head.lora_{side}.weight" for side in "BA")
    update = 4 * tensors[b] @ tensors[a]  # lora_alpha 8, r 2
    # Far above the limit for this weight, far below that for the whole update.
    tensors[b] *= 50 * float(tensors[KEY].norm() / update.norm())
    with pytest.raises(AdapterRefused, match="lm_head is 50 times as large as the base weight"):
        admit(config, save(tensors), base, AdmissionLimits(max_rank=8, max_relative_norm=10.0))


@pytest.mark.filterwarnings("ignore")
def test_a_base_weight_without_its_pair_is_refused(saved: Any) -> None:
    base, config, tensors = saved
    alone = {name: tensor for name, tensor in tensors.items() if "lm_head.lora" not in name}
    with pytest.raises(AdapterRefused, match="without its pair"):
        admit(config, save(alone), base, LIMITS)
