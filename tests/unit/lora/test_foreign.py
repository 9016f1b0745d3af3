"""Files that people upload by mistake: each is recognised, and its remedy is for just that mistake."""

from __future__ import annotations

import copy
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load, save
from transformers import LlamaForCausalLM

from ramole.core.errors import AdapterRefused
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
LIMITS = AdmissionLimits(max_rank=8)

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 4096\n" % (b"0" * 64)
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>"


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, file)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("adapter/adapter_config.json", "{}")
    return file.getvalue()


FILES: dict[str, tuple[bytes, str, str]] = {
    "pointer": (POINTER, "Git LFS pointer", "git lfs pull"),
    "page": (PAGE, "web page", "raw file"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page", "signed in"),
    "text": (b"Entry not found", "this is text", "raw file"),
    "pickle": (pickled(), "pickle", "with PEFT where you trust it"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), "llama.cpp", "PEFT adapter"),
    "zip": (zipped(), "is compressed", "unpack"),
    "gzip": (gzip.compress(b"x" * 100, mtime=1), "is compressed", "unpack"),
    "zeros": (bytes(4096), "zeros", "download"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("place", [CONFIG, TENSORS])
def test_other_files(kind: str, place: str, base: BaseShapes, good: tuple[bytes, bytes]) -> None:
    data, what, remedy = FILES[kind]
    with pytest.raises(AdapterRefused) as caught:
        admit(*((data, good[1]) if place == CONFIG else (good[0], data)), base, LIMITS)
    assert caught.value.field == place
    assert what in caught.value.message
    assert remedy in caught.value.remedy


def test_swapped_and_cut_off_files(base: BaseShapes, good: tuple[bytes, bytes]) -> None:
    config, tensors = good
    with pytest.raises(AdapterRefused, match="a safetensors file"):
        admit(tensors, config, base, LIMITS)
    with pytest.raises(AdapterRefused, match="this is JSON"):
        admit(config, config, base, LIMITS)
    with pytest.raises(AdapterRefused, match="the beginning of one"):
        admit(config, tensors[:100], base, LIMITS)
    with pytest.raises(AdapterRefused, match="the file holds") as caught:
        admit(config, tensors[:-100], base, LIMITS)
    assert "did not arrive whole" in caught.value.remedy


@pytest.fixture(scope="module")
def base(base_model: LlamaForCausalLM) -> BaseShapes:
    linear = {n: m for n, m in base_model.named_modules() if isinstance(m, torch.nn.Linear)}
    shapes = {name: (module.in_features, module.out_features) for name, module in linear.items()}
    return BaseShapes("tiny-llama", shapes, head="lm_head")


@pytest.fixture(scope="module")
def good(make_adapter: Any, base: BaseShapes) -> tuple[bytes, bytes]:
    config, tensors, _ = make_adapter()
    admit(config, tensors, base, LIMITS)
    return config, tensors


def renamed(old: str, new: str) -> Callable[[str], str]:
    return lambda name: name.replace(old, new)


def kohya(name: str) -> str:
    module = name.removeprefix("base_model.model.").partition(".lora_")[0].replace(".", "_")
    return f"lora_unet_{module}.lora_{'down' if 'lora_A' in name else 'up'}.weight"


def whole(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".lora_A", "").replace(".lora_B", ".norm")


NAMES: dict[str, tuple[Callable[[str], str], str, str]] = {
    "bare": (renamed("base_model.model.", ""), "prefix base_model.model. is missing", "save_pretrained"),
    "twice": (renamed("base_model.model.", "base_model.model." * 2), "prefix base_model.model. twice", "once"),
    "adapter": (renamed(".weight", ".default.weight"), "in memory", "state_dict"),
    "kohya": (kohya, "kohya", "saved by PEFT"),
    "diffusers": (renamed("base_model.model.model", "unet"), "diffusers", "saved by PEFT"),
    "compiled": (renamed("base_model.model.", "base_model.model._orig_mod."), "torch.compile", "unwrap"),
    "checkpointed": (renamed(".self_attn", "._checkpoint_wrapped_module.self_attn"), "checkpointing", "unwrap"),
    "headless": (renamed("model.model.", "model."), "without its head: here it is model.layers.0", "ForCausalLM"),
    "larger": (renamed("e_model.model.", "e_model.model.text."), "part of a larger model: here it is model.", "Causal"),
    "whole": (whole, "weight of a whole model", "without its model"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_other_names(kind: str, base: BaseShapes, good: tuple[bytes, bytes]) -> None:
    rename, what, remedy = NAMES[kind]
    config, tensors = good
    data = save({rename(name): tensor for name, tensor in load(tensors).items()})
    with pytest.raises(AdapterRefused) as caught:
        admit(config, data, base, LIMITS)
    assert caught.value.field == TENSORS
    assert what in caught.value.message
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(("shape", "what"), [((0,), "ZeRO-3"), ((0, 32), "ZeRO-3"), ((128,), "FSDP")])
def test_parts_of_tensors(shape: tuple[int, ...], what: str, base: BaseShapes, good: tuple[bytes, bytes]) -> None:
    config, tensors = good
    made = load(tensors)
    made[next(name for name in made if "lora_A" in name)] = torch.zeros(shape)
    with pytest.raises(AdapterRefused, match=what) as caught:
        admit(config, save(made), base, LIMITS)
    assert "gather" in caught.value.remedy


@pytest.mark.filterwarnings("ignore")
def test_what_peft_really_saves_of_a_model_that_it_wrapped_twice(
    base_model: LlamaForCausalLM, base: BaseShapes, tmp_path: Any
) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    once = get_peft_model(copy.deepcopy(base_model), config)
    PeftModel(once, config, adapter_name="second").save_pretrained(tmp_path)
    saved = sorted(tmp_path.glob("**/adapter_model.safetensors"))
    raw = json.loads(next(iter(tmp_path.glob("**/adapter_config.json"))).read_text())
    with pytest.raises(AdapterRefused) as caught:
        admit(
            json.dumps(raw | {"base_model_name_or_path": "tiny-llama"}).encode(), saved[-1].read_bytes(), base, LIMITS
        )
    assert caught.value.field == TENSORS
    assert caught.value.remedy
    assert "twice" in caught.value.message, caught.value.message
