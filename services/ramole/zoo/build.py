"""Makes the whole zoo from nothing: texts, tokenizer, base model, adapters, router. Goes on where it was stopped."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ramole.training.lm import encode
from ramole.training.router import RouterRecipe
from ramole.zoo import adapters, routing
from ramole.zoo.base import BaseRecipe, make_base, pretrain, save_base
from ramole.zoo.catalog import (
    ADAPTERS,
    BASE_ID,
    BASE_STAGE,
    PAIRS,
    PAIRS_STAGE,
    PROMPTS,
    ROUTER_STAGE,
    SAMPLES,
    TASK,
    Split,
    Zoo,
    load_zoo,
)
from ramole.zoo.manifest import Manifest
from ramole.zoo.retrieval import Encode, minilm
from ramole.zoo.splits import TaskData, split_all
from ramole.zoo.tasks import TASKS, Task
from ramole.zoo.tokenizer import train_tokenizer

Log = Callable[[str, float], None]
"""Called with the name of the running stage and its finished fraction in [0, 1]."""


@dataclass(frozen=True, slots=True)
class ZooRecipe:
    """What a zoo is built from.

    Attributes:
        tasks: one adapter is made for each.
        base: the base model.
        adapters: the tasks take these in turns.
        router: the RouterLoRA.
        router_rank: Q.
    """

    tasks: tuple[Task, ...] = TASKS
    base: BaseRecipe = field(default_factory=BaseRecipe)
    adapters: tuple[adapters.AdapterRecipe, ...] = adapters.RECIPES
    router: RouterRecipe = field(default_factory=RouterRecipe)
    router_rank: int = 8

    @property
    def digest(self) -> str:
        """Differs between recipes that differ."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def build(
    out_dir: Path,
    *,
    seed: int = 0,
    log: Log = lambda stage, fraction: None,
    recipe: ZooRecipe | None = None,
    encode_texts: Encode | None = None,
) -> Zoo:
    """Builds a zoo in `out_dir`, or finishes one that was begun there with the same seed and recipe.

    Args:
        log: is told about progress.
        encode_texts: the sentence encoder that ranks adapters; None = MiniLM.

    Raises:
        WrongState: `out_dir` was built from something else.
    """
    recipe = recipe or ZooRecipe()
    out_dir.mkdir(parents=True, exist_ok=True)
    header = {"base_id": BASE_ID, "seed": seed, "recipe": recipe.digest, "versions": _versions()}
    manifest = Manifest.open(out_dir, header)
    data = split_all(recipe.tasks, seed=seed)
    if not manifest.is_done(BASE_STAGE):
        # Whatever stands on another base is worthless.
        manifest.stages.clear()
        _make_base(manifest, data, recipe, seed, lambda fraction: log(BASE_STAGE, fraction))
    for number, one in enumerate(data):
        stage = f"{ADAPTERS}/{one.task.name}"
        if not manifest.is_done(stage):
            manifest.stages.pop(ROUTER_STAGE, None)
            log(stage, 0.0)
            _make_adapter(manifest, stage, one, recipe.adapters[number % len(recipe.adapters)], seed)
            log(stage, 1.0)
    if not manifest.is_done(PAIRS_STAGE):
        _write_json(out_dir / PAIRS, [])
        manifest.finish(PAIRS_STAGE, out_dir / PAIRS, {})
    if not manifest.is_done(ROUTER_STAGE):
        log(ROUTER_STAGE, 0.0)
        folder = _empty(out_dir / ROUTER_STAGE)
        figures = routing.make_router(
            out_dir,
            data,
            recipe.router,
            router_rank=recipe.router_rank,
            seed=seed,
            encode_texts=encode_texts or minilm(),
            progress=lambda fraction: log(ROUTER_STAGE, fraction),
        )
        manifest.finish(ROUTER_STAGE, folder, figures)
    return load_zoo(out_dir)


def _make_base(
    manifest: Manifest, data: Sequence[TaskData], recipe: ZooRecipe, seed: int, progress: Callable[[float], None]
) -> None:
    tokenizer = train_tokenizer(recipe.tasks, seed=seed)
    model = make_base(tokenizer, recipe.base, seed=seed)
    pretrain(model, tokenizer, data, recipe.base, seed=seed, progress=progress)
    folder = _empty(manifest.root / BASE_STAGE)
    save_base(model, tokenizer, folder)
    tests = [encode(tokenizer, e.prompt, e.answer) for one in data for e in one.test]
    figures = {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "exact_match": _rounded(adapters.share_right(model, tests, pad=tokenizer.pad_token_id)),
    }
    manifest.finish(BASE_STAGE, folder, figures)


def _make_adapter(manifest: Manifest, stage: str, one: TaskData, recipe: adapters.AdapterRecipe, seed: int) -> None:
    model, tokenizer = routing.open_base(manifest.root / BASE_STAGE)
    pad = tokenizer.pad_token_id
    train = [encode(tokenizer, e.prompt, e.answer) for e in one.train]
    test = [encode(tokenizer, e.prompt, e.answer) for e in one.test]
    base_match = adapters.share_right(model, test, pad=pad)
    folder = _empty(manifest.root / stage)
    tuned = adapters.train_adapter(model, train, recipe, pad=pad, seed=f"{seed}/{one.task.name}")
    own_match = adapters.share_right(tuned, test, pad=pad)
    adapters.save_adapter(tuned, folder, base_id=BASE_ID)
    _write_texts(folder, one, recipe)
    figures = {"exact_match": _rounded(own_match), "base_exact_match": _rounded(base_match)}
    manifest.finish(stage, folder, figures)


def _write_texts(folder: Path, one: TaskData, recipe: adapters.AdapterRecipe) -> None:
    task = {
        "cluster": one.task.cluster,
        "group": f"{one.task.family}-{one.task.skill}",
        "split": Split.TEST if one.task.is_held_out else Split.TRAIN,
        "is_new_skill": one.task.is_held_out,
        "siblings": [],
        "rank": recipe.rank,
        "targets": list(recipe.targets),
    }
    prompts = {"train": one.train[-routing.NUM_PROMPTS :], "dev": one.dev, "test": one.test}
    _write_json(folder / TASK, task)
    _write_json(folder / SAMPLES, one.samples)
    _write_json(folder / PROMPTS, {kind: [asdict(example) for example in part] for kind, part in prompts.items()})


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(share: float) -> float:
    return round(share, 4)


def _versions() -> dict[str, str]:
    names: Iterable[str] = ("torch", "transformers", "tokenizers", "peft", "safetensors")
    return {name: importlib.metadata.version(name) for name in names}
