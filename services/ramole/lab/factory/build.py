"""Makes a whole zoo from nothing: texts, tokenizer, base model, adapters, router. Goes on where it was stopped."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from ramole.lab.factory import adapters
from ramole.lab.factory.base import open_base, pretrain, save_base
from ramole.lab.factory.recipes import ZooRecipe
from ramole.lab.factory.splits import TaskData, make_pairs, split_all
from ramole.lab.factory.tasks import Task, siblings
from ramole.lab.factory.tokenizer import train_tokenizer
from ramole.lab.machine import torch_threads
from ramole.lab.memory_index import Embed
from ramole.lab.training.router import train_router
from ramole.lab.training.router_job import RouterAdapter, RouterJob, digest_of_base, encoder_of, prepare
from ramole.mixture.router import save_router
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

Log = Callable[[str, float], None]
"""Called with the name of the running stage and its finished fraction in [0, 1]."""

BUCKET = 16
NUM_ROUTER_PROMPTS = 40
"""Training prompts of each task that the zoo keeps: a router is to learn tasks, not prompts."""


def build(
    out_dir: Path,
    *,
    recipe: ZooRecipe,
    seed: int = 0,
    threads: int = 1,
    log: Log = lambda stage, fraction: None,
    embed: Embed | None = None,
) -> Zoo:
    """Builds a zoo in `out_dir`, or finishes one that was begun there with the same seed and recipe.

    Args:
        threads: of the base and router training; adapters are trained by as many processes of one thread. The texts
            never depend on it, and given one base the adapters do not either; the last bits of the base do.
        log: is told about progress.
        embed: the sentence encoder that ranks adapters; None = MiniLM.

    Raises:
        WrongState: `out_dir` was built from something else.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    header = {"base_id": BASE_ID, "seed": seed, "recipe": recipe.digest, "versions": _versions()}
    manifest = Manifest.open(out_dir, header)
    with torch_threads(threads):
        if not manifest.is_done(BASE_STAGE):
            # Whatever stands on another base is worthless.
            manifest.stages.clear()
            _make_base(manifest, recipe, seed, threads, lambda fraction: log(BASE_STAGE, fraction))
        _make_adapters(manifest, recipe, seed, threads, lambda fraction: log(ADAPTERS, fraction))
        if not manifest.is_done(PAIRS_STAGE):
            _write_json(out_dir / PAIRS, [asdict(pair) for pair in make_pairs(recipe.tasks, seed=seed)])
            manifest.finish(PAIRS_STAGE, out_dir / PAIRS, {})
        if not manifest.is_done(ROUTER_STAGE):
            _make_router(manifest, recipe, seed, embed, lambda fraction: log(ROUTER_STAGE, fraction))
    return load_zoo(out_dir)


def _make_base(
    manifest: Manifest, recipe: ZooRecipe, seed: int, threads: int, progress: Callable[[float], None]
) -> None:
    tokenizer = train_tokenizer(recipe.world, seed=seed)
    with torch_threads(1):
        model = pretrain(tokenizer, recipe.world, recipe.base, seed=seed, processes=threads, progress=progress)
    folder = _empty(manifest.root / BASE_STAGE)
    save_base(model, tokenizer, folder)
    manifest.finish(BASE_STAGE, folder, {"num_parameters": sum(p.numel() for p in model.parameters())})


def _make_adapters(
    manifest: Manifest, recipe: ZooRecipe, seed: int, threads: int, progress: Callable[[float], None]
) -> None:
    buckets = _buckets(recipe)
    missing = [bucket for bucket in buckets if not all(manifest.is_done(_stage(task)) for task in bucket)]
    if not missing:
        return
    manifest.forget(ROUTER_STAGE)
    progress(0.0)
    done = len(buckets) - len(missing)
    for bucket, figures in _train_buckets(manifest.root, recipe, missing, seed, threads):
        for task, figure in zip(bucket, figures, strict=True):
            manifest.finish(_stage(task), manifest.root / _stage(task), figure)
        done += 1
        progress(done / len(buckets))
    manifest.sort([BASE_STAGE, *map(_stage, recipe.tasks)])


def _buckets(recipe: ZooRecipe) -> list[tuple[Task, ...]]:
    """Tasks whose adapters are trained in one pass: of one recipe, and with prompts of like length."""
    buckets: list[tuple[Task, ...]] = []
    for kind in recipe.adapters:
        tasks = [task for task in recipe.tasks if recipe.adapter(task) is kind]
        tasks.sort(key=lambda task: (task.family, task.name))
        buckets += [tuple(tasks[i : i + BUCKET]) for i in range(0, len(tasks), BUCKET)]
    return buckets


def _train_buckets(
    root: Path, recipe: ZooRecipe, buckets: Sequence[tuple[Task, ...]], seed: int, processes: int
) -> Iterator[tuple[tuple[Task, ...], list[dict[str, float]]]]:
    if processes == 1:
        for bucket in buckets:
            yield bucket, train_bucket(root, recipe, bucket, seed)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(train_bucket, root, recipe, bucket, seed): bucket for bucket in buckets}
        for future in as_completed(running):
            yield running[future], future.result()


def train_bucket(root: Path, recipe: ZooRecipe, tasks: Sequence[Task], seed: int) -> list[dict[str, float]]:
    """Makes the folders of these tasks, whose adapters have one recipe. Runs on one thread.

    Returns:
        The figures of each: exact match on its test prompts, with the adapter and without.
    """
    kind = recipe.adapter(tasks[0])
    with torch_threads(1):
        model, tokenizer = open_base(root / BASE_STAGE)
        pad = tokenizer.pad_token_id
        data = split_all(tasks, seed=seed)
        tests = [adapters.test_texts(tokenizer, one) for one in data]
        without = [adapters.share_right(model, test, pad=pad) for test in tests]
        seeds = [f"{seed}/{task.name}/adapter" for task in tasks]
        bank = adapters.Bank.put_on(model, kind, seeds)
        bank.train([adapters.train_texts(tokenizer, one, seed=seed) for one in data], seeds, pad=pad)
        own = bank.share_right(tests, pad=pad)
    for number, one in enumerate(data):
        folder = _empty(root / _stage(one.task))
        bank.save(number, folder, base_id=BASE_ID)
        _write_texts(folder, one, recipe)
    return [{"exact_match": round(a, 4), "base_exact_match": round(b, 4)} for a, b in zip(own, without, strict=True)]


def _write_texts(folder: Path, one: TaskData, recipe: ZooRecipe) -> None:
    task, kind = one.task, recipe.adapter(one.task)
    known = {other.group for other in recipe.tasks if other.split is not Split.TEST}
    content = {
        "cluster": task.about.cluster,
        "group": task.group,
        "split": task.split,
        "is_new_skill": task.group not in known,
        "siblings": siblings(task, recipe.tasks),
        "rank": kind.rank,
        "targets": kind.targets,
    }
    prompts = {"train": one.train[-NUM_ROUTER_PROMPTS:], "dev": one.dev, "test": one.test}
    _write_json(folder / TASK, content)
    _write_json(folder / SAMPLES, one.samples)
    _write_json(folder / PROMPTS, {kind: [asdict(example) for example in part] for kind, part in prompts.items()})


def _make_router(
    manifest: Manifest,
    recipe: ZooRecipe,
    seed: int,
    embed: Embed | None,
    progress: Callable[[float], None],
) -> None:
    """Trains the router on the tasks that are meant for training, with the prompts that the zoo keeps."""
    manifest.forget(ROUTER_STAGE)
    progress(0.0)
    base, folder = str(manifest.root / BASE_STAGE), _empty(manifest.root / ROUTER_STAGE)
    seen = tuple(
        RouterAdapter(one.name, one.path, one.samples, tuple((e.prompt, e.answer) for e in one.train))
        for one in load_zoo(manifest.root).of(Split.TRAIN)
    )
    job = RouterJob(base, seen, folder, recipe=recipe.router, rank=recipe.router_rank, seed=seed)
    ready = prepare(job, embed or encoder_of(job))
    pairs = train_router(
        ready.model, ready.mixture, ready.tasks, job.recipe, pad=ready.pad, seed=seed, progress=progress
    )
    about = {
        "base_sha256": digest_of_base(base, ready.model),
        "seed": seed,
        "recipe": asdict(job.recipe),
        "tasks": [one.name for one in seen],
    }
    save_router(folder, pairs, base_id=BASE_ID, manifest=about)
    manifest.finish(ROUTER_STAGE, folder, {})


def _stage(task: Task) -> str:
    return f"{ADAPTERS}/{task.name}"


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    names: Iterable[str] = ("torch", "transformers", "tokenizers", "peft", "safetensors")
    return {name: importlib.metadata.version(name) for name in names}
