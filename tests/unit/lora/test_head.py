"""Adapters as PEFT saves them with the base's own embedding and head beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, save
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ramole.core.errors import AdapterRefused
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes, read_base_shapes
from ramole.lora.reader import read_adapter

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


EMBEDDING_KEY = "base_model.model.model.embed_tokens.weight"


def with_embeddings(
    folder: Path, *, tied: bool = False, change: Any = None, dtype: torch.dtype = torch.float32
) -> tuple[BaseShapes, bytes, bytes]:
    """The base, and both files of an adapter that PEFT saved with save_embedding_layers=True."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=32,
        tie_word_embeddings=tied,
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    if change is not None:
        change(model)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(folder / "adapter", save_embedding_layers=True)
    written = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    tensors = load((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    assert {EMBEDDING_KEY, "base_model.model.lm_head.weight"} < tensors.keys()
    rounded = {name: tensor if "lora_" in name else tensor.to(dtype) for name, tensor in tensors.items()}
    config_json = json.dumps(written | {"base_model_name_or_path": "tiny"}).encode()
    return read_base_shapes(str(folder / "base"), "tiny"), config_json, save(rounded)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_that_are_the_base_s_are_accepted_and_dropped(tied: bool, tmp_path: Path) -> None:
    base, config, tensors = with_embeddings(tmp_path, tied=tied)
    admitted = admit(config, tensors, base, LIMITS)
    assert set(admitted.weights.pairs) == {"model.layers.0.self_attn.q_proj"}
    assert set(read_adapter(config, tensors).pairs) == set(admitted.weights.pairs)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_without_the_backbone_s_name(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8))
    model.save_pretrained(tmp_path)
    named = load((tmp_path / "model.safetensors").read_bytes())
    bare = {name.removeprefix("transformer."): tensor for name, tensor in named.items()}
    (tmp_path / "model.safetensors").write_bytes(save(bare))
    base = read_base_shapes(str(tmp_path), "tiny")
    for module in (base.embedding, base.head):
        weight = base.read_weight(module)
        assert weight is not None
        assert torch.equal(weight, model.get_input_embeddings().weight)


def train_two_rows(model: Any) -> None:
    model.get_input_embeddings().weight.data[[3, 7]] += 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "words", "remedy"),
    [
        ({"change": train_two_rows}, "embed_tokens.* differs from the base's in 2 of 32 rows", "train without"),
        ({"change": lambda model: model.resize_token_embeddings(40)}, "vocabulary was resized: .* 40 .* 32", "tokens"),
        ({"dtype": torch.bfloat16}, "rounded to bfloat16", "save_embedding_layers=False"),
    ],
    ids=["trained", "resized", "rounded"],
)
def test_embeddings_that_are_not_the_base_s_say_how(
    options: dict[str, Any], words: str, remedy: str, tmp_path: Path
) -> None:
    base, config, tensors = with_embeddings(tmp_path, **options)
    with pytest.raises(AdapterRefused, match=words) as caught:
        admit(config, tensors, base, LIMITS)
    assert caught.value.field == "adapter_model.safetensors"
    assert remedy in caught.value.remedy


@pytest.mark.filterwarnings("ignore")
def test_the_pair_of_a_resized_head_is_said_to_be_one(saved: Any) -> None:
    base, config, tensors = saved
    b = "base_model.model.lm_head.lora_B.weight"
    tensors[b] = torch.cat([tensors[b], torch.zeros(8, 2)])
    with pytest.raises(AdapterRefused, match="vocabulary was resized: lm_head has 40 rows"):
        admit(config, save(tensors), base, LIMITS)


@pytest.mark.filterwarnings("ignore")
def test_weights_of_a_whole_model_are_no_copies_that_peft_makes(saved: Any) -> None:
    base, config, tensors = saved
    tensors["base_model.model.model.norm.weight"] = torch.ones(16)
    with pytest.raises(AdapterRefused, match="weight of a whole model"):
        admit(config, save(tensors), base, LIMITS)
