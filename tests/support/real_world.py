"""A gateway on a real store and a real index; and adapters that the store takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from ramole.adapters.servicer import AdaptersService
from ramole.lora.base import BaseShapes
from support.gateway_world import BASE
from support.index_world import LiveWorld

SHAPES = BaseShapes(BASE, {"m.q": (32, 16)})


class RealWorld(LiveWorld):
    """Store and index lie below `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("", num=0)
        self.settings = self.settings.model_copy(update={"data_dir": folder / "data"})
        self.adapters = AdaptersService(self.settings, SHAPES)  # type: ignore[assignment]
        self.retrieval = type(self.retrieval)(self.settings)


def adapter_files(number: int) -> dict[str, bytes]:
    """Both files of an adapter; another number is other content."""
    rng = np.random.default_rng(number)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": BASE, "target_modules": ["q"]}
    tensors = {
        f"base_model.model.m.q.{half}.weight": 0.1 * rng.standard_normal(shape).astype(np.float32)
        for half, shape in {"lora_A": (2, 32), "lora_B": (16, 2)}.items()
    }
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}
