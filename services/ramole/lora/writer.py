"""A PEFT LoRA folder out of pairs, with nothing in it that differs from one machine or run to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.lora.weights import LoraPair


def save_adapter(folder: Path, pairs: Mapping[str, LoraPair], *, base_id: str) -> None:
    """Writes both files. The pairs have one rank, and alpha = r: b is stored as it is used."""
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
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(pairs),
        "task_type": "CAUSAL_LM",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
