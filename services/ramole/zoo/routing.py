"""The router stage: trains the RouterLoRA on the tasks that are not held out and measures every composition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights
from ramole.mixture.layer import SlotShape
from ramole.mixture.mixture import Mixture
from ramole.mixture.router import CONFIG, TENSORS, load_router, save_router
from ramole.training.lm import encode
from ramole.training.router import RouterRecipe, RouterTask, train_router
from ramole.zoo import compositions
from ramole.zoo.catalog import ADAPTERS, BASE_ID, BASE_STAGE, ROUTER_STAGE
from ramole.zoo.compositions import Question
from ramole.zoo.manifest import sha256_of
from ramole.zoo.retrieval import Encode, Retriever, hit_rate
from ramole.zoo.splits import TaskData

NUM_PROMPTS = 40
"""Training prompts of each task that the router sees: it is to learn tasks, not prompts."""


def open_base(folder: Path) -> tuple[Any, Any]:
    """The base model, frozen, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def make_router(
    root: Path,
    data: Sequence[TaskData],
    recipe: RouterRecipe,
    *,
    router_rank: int,
    seed: int,
    encode_texts: Encode,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Trains the router of the zoo in `root`, saves it there, and measures.

    Returns:
        The figures: retrieval hit rates, and exact match of each composition over all, seen and held-out tasks.
    """
    retriever = Retriever.build(encode_texts, [one.samples for one in data])
    model, tokenizer = open_base(root / BASE_STAGE)
    weights = [_read_weights(root / ADAPTERS / one.task.name) for one in data]
    shape = SlotShape(num_slots=len(data) + 1, slot_rank=max(one.rank for one in weights), router_rank=router_rank)
    seen = [number for number, one in enumerate(data) if not one.task.is_held_out]
    mixture = Mixture(model, shape)
    for number in seen:
        mixture.write(number + 1, weights[number])
    tasks = [_router_task(data[number], seen, retriever, tokenizer) for number in seen]
    pairs = train_router(model, mixture, tasks, recipe, pad=tokenizer.pad_token_id, seed=seed, progress=progress)
    manifest = {
        "base_sha256": sha256_of(root / BASE_STAGE / "model.safetensors"),
        "seed": seed,
        "recipe": asdict(recipe),
        "tasks": [data[number].task.name for number in seen],
    }
    folder = root / ROUTER_STAGE
    save_router(folder, pairs, base_id=BASE_ID, manifest=manifest)
    figures = _measure(root, data, weights, shape, retriever)
    save_router(folder, pairs, base_id=BASE_ID, manifest={**manifest, "figures": figures})
    return figures


def _read_weights(folder: Path) -> AdapterWeights:
    return read_adapter((folder / CONFIG).read_bytes(), (folder / TENSORS).read_bytes())


def _router_task(one: TaskData, seen: Sequence[int], retriever: Retriever, tokenizer: Any) -> RouterTask:
    chosen = one.train[-NUM_PROMPTS:]
    similarities = retriever.similarities([example.prompt for example in chosen])[:, seen]
    nearest = np.argsort(-similarities, axis=1, kind="stable")
    return RouterTask(
        tuple(encode(tokenizer, example.prompt, example.answer) for example in chosen),
        np.asarray(seen, np.int64)[nearest] + 1,
    )


def _measure(
    root: Path,
    data: Sequence[TaskData],
    weights: Sequence[AdapterWeights],
    shape: SlotShape,
    retriever: Retriever,
) -> dict[str, Any]:
    # Through the saved files, all adapters in the pool: what is measured is what is shipped.
    model, tokenizer = open_base(root / BASE_STAGE)
    mixture = Mixture(model, shape, load_router(root / ROUTER_STAGE))
    for slot, adapter in enumerate(weights, start=1):
        mixture.write(slot, adapter)
    questions: list[Question] = []
    is_held_out: list[bool] = []
    hits: dict[int, list[float]] = {1: [], 3: []}
    for number, one in enumerate(data):
        similarities = retriever.similarities([example.prompt for example in one.test])
        for within, rates in hits.items():
            rates.append(hit_rate(similarities, number, within=within))
        for example, row in zip(one.test, similarities, strict=True):
            questions.append(Question(encode(tokenizer, example.prompt, example.answer), row))
            is_held_out.append(one.task.is_held_out)
    figures: dict[str, Any] = {f"retrieval top-{within}": _mean(rates) for within, rates in hits.items()}
    groups = {"all": np.full(len(questions), True), "seen": ~np.array(is_held_out), "held_out": np.array(is_held_out)}
    for name, composition in compositions.methods():
        is_right = np.array(
            compositions.right_answers(model, mixture, questions, composition, pad=tokenizer.pad_token_id)
        )
        figures[name] = {group: _mean(is_right[rows]) for group, rows in groups.items() if rows.any()}
    return figures


def _mean(values: Sequence[float] | npt.NDArray[np.bool_]) -> float:
    return round(float(np.mean(values)), 4)
