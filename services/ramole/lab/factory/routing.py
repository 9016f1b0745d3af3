"""The router stage: trains the RouterLoRA of a zoo on the tasks that are meant for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ramole.lab.factory.base import open_base
from ramole.lab.factory.recipes import ZooRecipe
from ramole.lab.factory.retrieval import Retriever
from ramole.lab.factory.splits import TaskData
from ramole.lab.training.lm import encode
from ramole.lab.training.router import RouterTask, train_router
from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights
from ramole.mixture.mixture import Mixture
from ramole.mixture.router import CONFIG, TENSORS, save_router
from ramole.mixture.slots import SlotShape
from ramole.zoo.catalog import ADAPTERS, BASE_ID, BASE_STAGE, ROUTER_STAGE
from ramole.zoo.manifest import sha256_of


def make_router(
    root: Path,
    seen: Sequence[TaskData],
    recipe: ZooRecipe,
    retriever: Retriever,
    num_prompts: int,
    *,
    seed: int,
    progress: Callable[[float], None],
) -> None:
    """Trains a router with the adapters and the last `num_prompts` training prompts of `seen`, and saves it.

    Args:
        retriever: ranks the adapters of `seen`, in their order.
    """
    model, tokenizer = open_base(root / BASE_STAGE)
    weights = [read_weights(root / ADAPTERS / one.task.name) for one in seen]
    mixture = with_slots(model, weights, router_rank=recipe.router_rank)
    tasks = [_router_task(one, retriever, tokenizer, num_prompts) for one in seen]
    pad = tokenizer.pad_token_id
    pairs = train_router(model, mixture, tasks, recipe.router, pad=pad, seed=seed, progress=progress)
    manifest = {
        "base_sha256": sha256_of(root / BASE_STAGE / "model.safetensors"),
        "seed": seed,
        "recipe": asdict(recipe.router),
        "tasks": [one.task.name for one in seen],
    }
    save_router(root / ROUTER_STAGE, pairs, base_id=BASE_ID, manifest=manifest)


def with_slots(model: Any, weights: Sequence[AdapterWeights], *, router_rank: int) -> Mixture:
    """Wraps `model`; adapter i is in slot i + 1."""
    rank = max(one.rank for one in weights)
    mixture = Mixture(model, SlotShape(num_slots=len(weights) + 1, slot_rank=rank, router_rank=router_rank))
    for slot, one in enumerate(weights, start=1):
        mixture.write(slot, one)
    return mixture


def read_weights(folder: Path) -> AdapterWeights:
    """The adapter in a PEFT folder."""
    return read_adapter((folder / CONFIG).read_bytes(), (folder / TENSORS).read_bytes())


def _router_task(one: TaskData, retriever: Retriever, tokenizer: Any, num_prompts: int) -> RouterTask:
    chosen = one.train[-num_prompts:]
    similarities = retriever.similarities([example.prompt for example in chosen])
    return RouterTask(
        tuple(encode(tokenizer, example.prompt, example.answer) for example in chosen),
        np.argsort(-similarities, axis=1, kind="stable") + 1,
    )
