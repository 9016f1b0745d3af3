"""What a config selects is what PEFT wraps, and a file that lacks some of it is refused by their names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load, save
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from ramole.core.errors import AdapterRefused
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes, read_base_shapes
from ramole.lora.config import read_config
from ramole.lora.targets import Targets
from ramole.zoo.catalog import load_zoo

LIMITS = AdmissionLimits(max_rank=64)

SELECTIONS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": "All-Linear", "exclude_modules": ["k_proj", "layers.1.mlp.up_proj"]},
    {"target_modules": ["lm_head", "mlp.down_proj", "model.layers.0.self_attn.o_proj"]},
    {"target_modules": ["self_attn.q_proj", "not_there"]},
    {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [0]},
    {"target_modules": ["q_proj", "model.layers.1.self_attn.k_proj"], "layers_to_transform": [0]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [0, 1], "layers_pattern": ["blocks", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": []},
    {"target_modules": r".*\.layers\.[01]\.self_attn\.(q|v)_proj"},
    {"target_modules": r"model\.layers\.\d+\.(?:self_attn\.\w_proj|mlp\.(up|gate)_proj)"},
    {"target_modules": "lm_head"},
    {"target_modules": r".*_proj", "exclude_modules": r".*\.mlp\..*"},
    {
        "target_modules": ["q_proj", "up_proj"],
        "exclude_modules": r"model\.layers\.0\..*",
        "rank_pattern": {"up_proj": 2},
    },
    {"target_modules": ["up_proj"], "exclude_modules": ["lm_head"], "rank_pattern": {"q_proj": 2}, "use_rslora": True},
]


def linear_names(model: torch.nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}


def wrapped_by_peft(model: PreTrainedModel, config: LoraConfig) -> tuple[set[str], bytes]:
    """Full names of what PEFT wraps, and the config as it would save it."""
    wrapped = get_peft_model(copy.deepcopy(model), config).base_model.model
    names = {name for name, module in wrapped.named_modules() if isinstance(module, LoraLayer)}
    raw = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return names, json.dumps(raw).encode()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keys", SELECTIONS, ids=str)
def test_the_same_modules_as_peft(keys: dict[str, Any], base_model: LlamaForCausalLM) -> None:
    expected, saved = wrapped_by_peft(base_model, LoraConfig(r=2, **keys))
    assert expected
    written = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **keys}).encode()
    for config in (written, saved):
        assert read_config(config).targets.selected(linear_names(base_model), "lm_head") == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["all-linear", ["c_attn"], ["attn.c_proj", "c_fc"], r".*\.h\.0\..*c_proj"], ids=str)
def test_conv1d_modules_too(target: Any) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=32, n_positions=16))
    expected, saved = wrapped_by_peft(model, LoraConfig(r=2, target_modules=target))
    assert read_config(saved).targets.selected(linear_names(model), "lm_head") == expected


@pytest.mark.filterwarnings("ignore")
def test_long_lists_as_peft_shortens_them(base_model: LlamaForCausalLM) -> None:
    names = sorted(linear_names(base_model) - {"lm_head"}) + [f"elsewhere.{number}" for number in range(20)]
    expected, saved = wrapped_by_peft(base_model, LoraConfig(r=2, target_modules=names))
    assert len(json.loads(saved)["target_modules"]) < len(names)
    assert read_config(saved).targets.selected(linear_names(base_model), "lm_head") == expected


PART = st.sampled_from(["model", "layers", "blocks", "q", "v", "0", "1", "12", "h"])
NAME = st.lists(PART, min_size=1, max_size=6).map(".".join)
NAMES = st.lists(NAME, min_size=1, max_size=4)
EXPRESSION = st.sampled_from(
    [
        r".*\.q", r".*(q|v)", r"model\..*", r"(\w+\.)*1\.\w+", "q", "model.layers.0.q", r"[^.]+\.v$", r".*\bq\b.*",
        r"(?:\w+\.){2,3}q", r".*\.\d{1,}\..*", r".*\Bv|\S+q",
    ]
)  # fmt: skip
LISTS = st.none() | st.sampled_from(
    ["layers", "blocks", ["h", "layers"], ["layers", "h"], [], "(h|layers)", "lay.*", r"\w+", "h|v", ["h|q", "layers"]]
)


@given(
    NAMES | EXPRESSION,
    st.none() | NAMES | EXPRESSION,
    st.none() | st.integers(0, 12) | st.lists(st.sampled_from([0, 1, 12]), max_size=2),
    LISTS,
    st.lists(NAME, max_size=8),
)
@settings(max_examples=600, deadline=None)
def test_same_answer_as_peft_for_any_name(
    target: Any, excluded: Any, layers: Any, lists: Any, names: list[str]
) -> None:
    if isinstance(target, str) or layers is None:
        layers = lists = None  # PEFT refuses to combine them
    keys = {"exclude_modules": excluded, "layers_to_transform": layers, "layers_pattern": lists}
    config = LoraConfig(target_modules=target, **keys)
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": target, **keys}
    expected = {name for name in names if check_target_module_exists(config, name)}
    assert read_config(json.dumps(raw).encode()).targets.selected(names) == expected


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("target_modules", {"target_modules": r"(?!x).*_proj"}),
        ("target_modules", {"target_modules": r"(.)\1_proj"}),
        ("target_modules", {"target_modules": "x|" * 3000}),
        ("target_modules", {"target_modules": "é|q_proj"}),
        ("target_modules", {"target_modules": "(.{900}|)" * 400}),
        ("target_modules", {"target_modules": r"(.*\b.*a.{900})*"}),
        ("target_modules", {}),
        ("target_modules", {"target_modules": []}),
        ("exclude_modules", {"target_modules": ["q_proj"], "exclude_modules": "a(?=b)"}),
        ("layers_pattern", {"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": "h(?!x)"}),
        ("layers_pattern", {"target_modules": ["q"], "layers_pattern": ["h"]}),
        ("layers_to_transform", {"target_modules": ".*q", "layers_to_transform": [1]}),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused_by_its_key(key: str, keys: dict[str, Any]) -> None:
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **keys}
    names = [f"model.layers.{number}.{'a' * 60}.q_proj" for number in range(2000)]
    with pytest.raises(AdapterRefused) as caught:
        read_config(json.dumps(raw).encode()).targets.selected(names)
    assert caught.value.field == f"adapter_config.json:{key}"
    assert caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", 3),
        ("target_modules", {"q": 1}),
        ("target_modules", ["q", None]),
        ("exclude_modules", True),
        ("layers_to_transform", "0"),
        ("layers_to_transform", [0, True]),
        ("layers_pattern", [1]),
    ],
)
def test_malformed_selections_are_refused(key: str, value: object) -> None:
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, key: value}
    with pytest.raises(AdapterRefused) as caught:
        read_config(json.dumps(raw).encode())
    assert caught.value.field == f"adapter_config.json:{key}"
    assert caught.value.remedy


@pytest.fixture(scope="module")
def base(base_model: LlamaForCausalLM) -> BaseShapes:
    modules = {
        name: (module.in_features, module.out_features)
        for name, module in base_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return BaseShapes("tiny-llama", modules, head="lm_head")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|v)_proj"},
        {"layers_to_transform": [1]},
        {"exclude_modules": ["layers.0.self_attn.v_proj"]},
        {"rank_pattern": {"v_proj": 2}},
    ],
    ids=str,
)
def test_a_truncated_file_is_refused_by_what_it_lacks(
    keys: dict[str, Any], base: BaseShapes, make_adapter: Any
) -> None:
    config, tensors, _ = make_adapter(**keys)
    whole = admit(config, tensors, base, LIMITS).report.modules
    lost = whole[-1]
    rest = {name: tensor for name, tensor in load(tensors).items() if f".{lost}." not in name}
    with pytest.raises(AdapterRefused) as caught:
        admit(config, save(rest), base, LIMITS)
    assert lost in caught.value.message
    assert not any(module in caught.value.message for module in whole if module != lost)
    assert caught.value.field == "adapter_model.safetensors"
    assert caught.value.remedy


def test_one_module_of_many(base: BaseShapes, make_adapter: Any) -> None:
    config, tensors, _ = make_adapter(target_modules="all-linear")
    first = {name: tensor for name, tensor in load(tensors).items() if "layers.0.self_attn.q_proj" in name}
    with pytest.raises(AdapterRefused, match=r"model\.layers\.0\.mlp\.down_proj.* and 5 more"):
        admit(config, save(first), base, LIMITS)


@pytest.mark.filterwarnings("ignore")
def test_the_zoo_is_complete_and_selected_as_by_peft() -> None:
    zoo = load_zoo()
    shapes = read_base_shapes(str(zoo.base_path), zoo.base_id)
    model = AutoModelForCausalLM.from_pretrained(zoo.base_path)
    assert (shapes.head, shapes.norms.keys()) == ("lm_head", shapes.modules.keys())
    seen: dict[tuple[str, ...], set[str]] = {}
    for adapter in zoo.adapters:
        files = [
            (Path(adapter.path) / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
        ]
        report = admit(files[0], files[1], shapes, LIMITS).report
        assert report.relative_norm is not None
        targets = tuple(sorted(json.loads(files[0])["target_modules"]))
        if targets not in seen:
            seen[targets], _ = wrapped_by_peft(model, LoraConfig(r=2, target_modules=list(targets)))
        assert set(report.modules) == seen[targets]
    everything, saved = wrapped_by_peft(model, LoraConfig(r=2, target_modules="all-linear"))
    assert read_config(saved).targets.selected(shapes.modules.keys(), shapes.head) == everything
    assert Targets("all-linear").selected(shapes.modules.keys(), shapes.head) == everything
