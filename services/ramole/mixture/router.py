"""RouterLoRA on disk: an ordinary PEFT LoRA folder (A_r as lora_A, B_r as lora_B, scaling 1) and a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ramole.core.errors import NotFound
from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights, LoraPair

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
MANIFEST = "router.json"


def load_router(folder: Path) -> AdapterWeights:
    """Reads A_r [Q, d] and B_r [o, Q] of every module.

    Raises:
        NotFound: the folder is not a router.
        AdapterRefused: the files are damaged.
    """
    if not (folder / CONFIG).is_file() or not (folder / TENSORS).is_file():
        raise NotFound(
            f"no RouterLoRA in {folder.name!r}",
            field="executor.router",
            remedy=f"give a folder with {CONFIG} and {TENSORS}, or leave the setting empty to run without a router",
        )
    return read_adapter((folder / CONFIG).read_bytes(), (folder / TENSORS).read_bytes())


def save_router(folder: Path, pairs: Mapping[str, LoraPair], *, base_id: str, manifest: Mapping[str, Any]) -> None:
    """Writes a router so that PEFT can open it too. `manifest` says where it comes from and how good it is."""
    from safetensors.torch import save_file

    rank = next(iter(pairs.values())).rank
    tensors = {}
    for name, pair in sorted(pairs.items()):
        tensors[f"base_model.model.{name}.lora_A.weight"] = pair.a.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = pair.b.detach().contiguous()
    config = {
        "base_model_name_or_path": base_id,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,  # scaling = alpha / r = 1: B_r is stored as it is used
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(pairs),
        "task_type": "CAUSAL_LM",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (folder / MANIFEST).write_text(json.dumps({"base_id": base_id, "rank": rank, **manifest}, indent=1) + "\n")
