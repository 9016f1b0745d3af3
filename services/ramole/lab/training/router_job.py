"""A whole router training from folders to a folder: one process, or one of many that run this same function."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ramole.core.errors import InvalidInput, RamoleError, WrongState
from ramole.lab.memory_index import Embed, MemoryIndex, open_encoder
from ramole.lab.training.checkpoint import Checkpoints
from ramole.lab.training.experts import with_slots
from ramole.lab.training.lm import encode
from ramole.lab.training.router import RouterRecipe, RouterTask, StepLog, train_router
from ramole.lab.training.workers import Workers
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import read_base_shapes
from ramole.lora.digest import sha256_of
from ramole.lora.files import TENSORS_FILE, read_folder
from ramole.lora.reader import read_layout
from ramole.lora.weights import AdapterWeights
from ramole.mixture.mixture import Mixture
from ramole.mixture.router import save_router

LOG = "training.jsonl"
MAX_RANK = 256
TAIL = 20


@dataclass(frozen=True, slots=True)
class RouterAdapter:
    """One expert of the training.

    Attributes:
        path: a PEFT folder.
        samples: inputs that describe it to the retriever.
        prompts: (prompt, right answer) pairs of its task.
    """

    name: str
    path: Path
    samples: tuple[str, ...]
    prompts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RouterJob:
    """Everything that decides the result.

    Attributes:
        base: folder or hub id of a causal LM.
        base_id: the name that the adapters give it; empty = the one that they all give.
        rank: Q of the router.
        encoder, retriever: those that will serve, as in the settings: they say which experts meet in training.
        checkpoint_every: steps.
    """

    base: str
    adapters: tuple[RouterAdapter, ...]
    out: Path
    base_id: str = ""
    recipe: RouterRecipe = field(default_factory=RouterRecipe)
    rank: int = 8
    seed: int = 0
    encoder: str = "minilm"
    retriever: str = ""
    device: str = "cpu"
    checkpoint_every: int = 50


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job, ready to be run. `hits`: how often retrieval finds the own expert of a training prompt."""

    base_id: str
    model: Any
    mixture: Mixture
    tasks: list[RouterTask]
    hits: dict[str, float]
    pad: int


def run_router_job(
    job: RouterJob,
    *,
    log: Callable[[StepLog], None] = lambda step: None,
    workers: Workers | None = None,
    embed: Embed | None = None,
) -> dict[str, Any]:
    """Trains, and writes an ordinary PEFT LoRA folder with `router.json` (the manifest) and the log of the training.

    Every worker runs it; only the first one writes, into a folder that all of them see.

    Args:
        embed: the retriever's encoder, None = the one that the job names.

    Returns:
        The manifest.

    Raises:
        InvalidInput, WrongState, AdapterRefused: base or an adapter do not fit; the message says which and why.
    """
    workers = workers or Workers()
    started = time.monotonic()
    ready = prepare(job, embed or encoder_of(job))
    checkpoints = Checkpoints(job.out, _key(job, workers), job.checkpoint_every)
    steps: list[StepLog] = []

    def note(step: StepLog) -> None:
        steps.append(step)
        if workers.is_first:
            with (job.out / LOG).open("a") as file:
                file.write(json.dumps(asdict(step)) + "\n")
        log(step)

    if workers.is_first:
        job.out.mkdir(parents=True, exist_ok=True)
        _cut_log(job.out / LOG, checkpoints)
    pairs = train_router(
        ready.model,
        ready.mixture,
        ready.tasks,
        job.recipe,
        pad=ready.pad,
        seed=job.seed,
        log=note,
        workers=workers,
        checkpoints=checkpoints,
    )
    tail = steps[-TAIL:]
    manifest = {
        "base_sha256": digest_of_base(job.base, ready.model),
        "encoder": job.encoder,
        "retriever": job.retriever,
        "seed": job.seed,
        "workers": workers.size,
        "recipe": asdict(job.recipe),
        "tasks": [adapter.name for adapter in job.adapters],
        "figures": {
            **ready.hits,
            "loss": round(float(np.mean([step.loss for step in tail])), 4) if tail else None,
            "gate_entropy": round(float(np.mean([step.gate_entropy for step in tail])), 4) if tail else None,
            "seconds": round(time.monotonic() - started, 1),
        },
    }
    if workers.is_first:
        save_router(job.out, pairs, base_id=ready.base_id, manifest=manifest)
        checkpoints.clear()
    return {"base_id": ready.base_id, "rank": job.rank, **manifest}


def prepare(job: RouterJob, embed: Embed) -> LoadedJob:
    """Loads the base, puts every expert into a slot, and ranks the experts for every prompt. Raises as the job does."""
    from transformers import AutoTokenizer

    base_id, weights = read_experts(job)
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    model = _load_base(job)
    mixture = with_slots(model, weights, router_rank=job.rank)
    tasks, hits = _tasks(job, tokenizer, embed)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return LoadedJob(base_id, model, mixture, tasks, hits, pad)


def read_experts(job: RouterJob) -> tuple[str, list[AdapterWeights]]:
    """Reads and admits every adapter, with the rules of an upload.

    Returns:
        The base's name, and the weights in the job's order.
    """
    if len(job.adapters) < job.recipe.k:
        raise InvalidInput(
            f"{len(job.adapters)} adapters for k = {job.recipe.k}", field="--adapters", remedy="train on more adapters"
        )
    for adapter in job.adapters:
        if not adapter.prompts or not adapter.samples:
            raise InvalidInput(
                f"adapter {adapter.name!r} has no {'samples' if adapter.prompts else 'training prompts'}",
                field="--adapters",
                remedy='prompts.json holds {"train": [{"prompt", "answer"}, ...]}, samples.json a list of inputs',
            )
    files = [read_folder(adapter.path) for adapter in job.adapters]
    base_id = job.base_id
    if not base_id:
        named = {
            adapter.name: read_layout(*pair).config.base_model
            for adapter, pair in zip(job.adapters, files, strict=True)
        }
        if len(set(named.values())) > 1:
            first, *_, last = sorted(named, key=lambda name: named[name])
            raise WrongState(
                f"{first!r} is made for {named[first]!r}, {last!r} for {named[last]!r}",
                field="--adapters",
                remedy="give adapters of one base model, or its name with --base-id",
            )
        base_id = next(iter(named.values()))
    shapes = read_base_shapes(job.base, base_id)
    weights = []
    for adapter, (config, tensors) in zip(job.adapters, files, strict=True):
        try:
            weights.append(admit(config, tensors, shapes, AdmissionLimits(MAX_RANK), base_model=job.base_id).weights)
        except RamoleError as error:
            raise type(error)(
                f"adapter {adapter.name!r}: {error.message}", field=error.field, remedy=error.remedy
            ) from None
    return base_id, weights


def digest_of_base(base: str, model: Any) -> str:
    """sha256 of a folder's one weight file; of the parameters themselves where there is no such file."""
    path = Path(base) / "model.safetensors"
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _load_base(job: RouterJob) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(job.base, local_files_only=Path(job.base).is_dir())
    return model.to(job.device).eval().requires_grad_(False)


def encoder_of(job: RouterJob) -> Embed:
    """The encoder that says which experts meet."""
    return open_encoder(job.encoder, retriever=job.retriever, base_model=job.base)


def _tasks(job: RouterJob, tokenizer: Any, embed: Embed) -> tuple[list[RouterTask], dict[str, float]]:
    """The prompts with their nearest experts, and how often the own one is among the first 1 and k."""
    index = MemoryIndex.build(embed, [adapter.samples for adapter in job.adapters])
    tasks: list[RouterTask] = []
    first: list[float] = []
    among: list[float] = []
    for slot, adapter in enumerate(job.adapters, start=1):
        nearest = index.nearest([prompt for prompt, _ in adapter.prompts]) + 1
        examples = tuple(encode(tokenizer, prompt, answer) for prompt, answer in adapter.prompts)
        tasks.append(RouterTask(examples, nearest, slot))
        first.append(float((nearest[:, 0] == slot).mean()))
        among.append(float((nearest[:, : job.recipe.k] == slot).any(1).mean()))
    return tasks, {"top1": round(float(np.mean(first)), 4), "top_k": round(float(np.mean(among)), 4)}


def _key(job: RouterJob, workers: Workers) -> str:
    """Names what the run depends on: recipe, data, adapters and number of workers."""
    digest = hashlib.sha256()
    facts: Sequence[Any] = (asdict(job.recipe), job.rank, job.seed, job.encoder, job.retriever, job.base, workers.size)
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for adapter in job.adapters:
        digest.update(json.dumps([adapter.name, adapter.samples, adapter.prompts]).encode())
        digest.update(hashlib.sha256((adapter.path / TENSORS_FILE).read_bytes()).digest())
    return digest.hexdigest()


def _cut_log(path: Path, checkpoints: Checkpoints) -> None:
    """Leaves in the log what the checkpoint knows: steps after it will be run again."""
    if path.is_file():
        lines = path.read_text().splitlines()
        done = checkpoints.peek()
        path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= done))
