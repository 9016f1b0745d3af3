"""A tiny base model and real PEFT adapters on it, saved to disk by PEFT itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

BASE_ID = "tiny-llama"

MakeAdapter = Callable[..., tuple[bytes, bytes, torch.Tensor]]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_model() -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.arange(2 * 9).reshape(2, 9) % 64


@pytest.fixture(scope="session")
def make_adapter(
    base_model: LlamaForCausalLM, tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> MakeAdapter:
    """Returns (config, tensors, logits of PEFT with this adapter)."""

    def make(
        *, dtype: torch.dtype = torch.float32, seed: int = 1, size: float = 1.0, **config: Any
    ) -> tuple[bytes, bytes, torch.Tensor]:
        folder: Path = tmp_path_factory.mktemp("adapter")
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj"], **config}
        model = get_peft_model(copy.deepcopy(base_model), LoraConfig(**settings)).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                drawn = torch.randn(parameter.shape, generator=generator) * 0.2 * (size if "lora_B" in name else 1.0)
                parameter.data = drawn.to(dtype).float()
        with torch.no_grad():
            logits = model(tokens).logits
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype)
        model.save_pretrained(folder, save_embedding_layers=False)
        written = json.loads((folder / "adapter_config.json").read_text())
        config_json = json.dumps(written | {"base_model_name_or_path": BASE_ID}).encode()
        return config_json, (folder / "adapter_model.safetensors").read_bytes(), logits

    return make
