"""One LoRA for each task, trained and saved by PEFT itself. Ranks, targets and scalings differ on purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from ramole.training.lm import Encoded, answer_loss, collate, exact_matches

ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
ALL_LINEAR = (*ATTENTION, "down_proj", "gate_proj", "up_proj")


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """How one adapter is shaped and trained."""

    rank: int
    alpha: int
    targets: tuple[str, ...]
    lr: float
    uses_rslora: bool = False
    steps: int = 80
    batch: int = 16


RECIPES: tuple[AdapterRecipe, ...] = (
    AdapterRecipe(8, 16, ("q_proj", "v_proj"), 6e-3),
    AdapterRecipe(4, 8, ATTENTION, 5e-3),
    AdapterRecipe(16, 16, ("q_proj", "v_proj"), 6e-3),
    AdapterRecipe(8, 8, ALL_LINEAR, 3e-3),
    AdapterRecipe(4, 16, ALL_LINEAR, 2e-3),
    AdapterRecipe(8, 32, ATTENTION, 2e-3, steps=120),
    AdapterRecipe(16, 16, ATTENTION, 2e-3, uses_rslora=True),
)


def train_adapter(base: Any, train: Sequence[Encoded], recipe: AdapterRecipe, *, pad: int, seed: str) -> Any:
    """Puts a PEFT LoRA on top of `base`, trains it and returns the PeftModel; `base` now carries it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.targets),
        use_rslora=recipe.uses_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Random(seed).getrandbits(32))
        model = get_peft_model(base, config)
    _train(model, train, recipe, pad, Random(seed))
    return model.eval()


def save_adapter(model: Any, folder: Path, *, base_id: str) -> None:
    """Writes PEFT's two files, without anything that differs from one machine or run to the next."""
    model.peft_config["default"].base_model_name_or_path = base_id
    # The vocabulary is never trained; without the flag PEFT would ask the hub about the base.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def share_right(model: Any, test: Sequence[Encoded], *, pad: int) -> float:
    """Exact match under greedy decoding, in [0, 1]."""
    right = exact_matches(model, collate(test, pad=pad))
    return sum(right) / len(right)


def _train(model: Any, train: Sequence[Encoded], recipe: AdapterRecipe, pad: int, rng: Random) -> None:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 10) * (1 - step / recipe.steps)
        loss = answer_loss(model, collate(rng.choices(train, k=recipe.batch), pad=pad))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
