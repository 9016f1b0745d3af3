"""A file that holds more than its config selects: PEFT leaves the rest out, we refuse it by name."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load, save
from transformers import LlamaForCausalLM

from ramole.core.errors import AdapterRefused
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes
from ramole.lora.reader import read_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "lm_head"]
LIMITS = AdmissionLimits(max_rank=8)

NARROWER: list[tuple[str, dict[str, Any]]] = [
    ("target_modules", {"target_modules": ["k_proj"]}),
    ("target_modules", {"target_modules": r".*\.[qv]_proj"}),
    ("target_modules", {"target_modules": "all-linear", "exclude_modules": ["down_proj", "up_proj", "gate_proj"]}),
    ("exclude_modules", {"exclude_modules": ["o_proj"]}),
    ("exclude_modules", {"exclude_modules": r".*layers\.0\..*"}),
    ("layers_to_transform", {"layers_to_transform": [0]}),
    ("layers_to_transform", {"layers_to_transform": 1, "layers_pattern": "layers"}),
]


@pytest.fixture(scope="module")
def base(base_model: LlamaForCausalLM) -> BaseShapes:
    linear = {n: m for n, m in base_model.named_modules() if isinstance(m, torch.nn.Linear)}
    shapes = {name: (module.in_features, module.out_features) for name, module in linear.items()}
    return BaseShapes("tiny-llama", shapes, head="lm_head")


def module_of(name: str) -> str:
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("key", "change"), NARROWER, ids=str)
def test_surplus_modules(
    key: str,
    change: dict[str, Any],
    base: BaseShapes,
    base_model: LlamaForCausalLM,
    tokens: torch.Tensor,
    make_adapter: Any,
    tmp_path: Path,
) -> None:
    written, data, _ = make_adapter(target_modules=ALL)
    tensors = {name: tensor for name, tensor in load(data).items() if "base_layer" not in name}
    data = save(tensors)
    config = json.dumps(json.loads(written) | change).encode()
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(data)
    peft = PeftModel.from_pretrained(copy.deepcopy(base_model), tmp_path).eval()
    served = {name for name, module in peft.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    surplus = sorted({module_of(name) for name in tensors} - served)
    assert surplus

    with pytest.raises(AdapterRefused) as caught:
        admit(config, data, base, LIMITS)
    assert caught.value.field == f"adapter_config.json:{key}"
    assert caught.value.remedy
    named = caught.value.message.partition(": ")[2].partition(" and ")[0].split(", ")
    assert named == surplus[: len(named)]
    rest = re.search(r" and (\d+) more", caught.value.message)
    assert len(named) + (int(rest[1]) if rest else 0) == len(surplus)
    if surplus != ["lm_head"]:  # that "all-linear" leaves out the head is known where the base is
        with pytest.raises(AdapterRefused):
            read_adapter(config, data)

    # Without them, the answer is PEFT's for the whole file.
    own = {name: tensor for name, tensor in tensors.items() if module_of(name) in served}
    weights = read_adapter(config, save(own))
    assert set(admit(config, save(own), base, LIMITS).report.modules) == set(weights.pairs) == served
    model = copy.deepcopy(base_model)
    for name, pair in weights.pairs.items():
        model.get_submodule(name).weight.data += pair.b @ pair.a
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, peft(tokens).logits, rtol=1e-4, atol=1e-4)
