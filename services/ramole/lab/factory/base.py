"""The base model: a small Llama that has all skills and all styles, but does not know which one is wanted.

First it learns the computations from documents whose answer mostly fits the instruction, in a random style. Then the
instruction is blurred: most answers belong to another skill of the same input, and most are plain. What is left for
an adapter to teach is what to do and how to say it.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ramole.lab.factory.families import Item
from ramole.lab.factory.skills import NUM_WORDINGS
from ramole.lab.factory.splits import TRAIN_CHATTER, draw_item, pair_prompt
from ramole.lab.factory.tasks import PLAIN, STYLES, Task, some_chatter
from ramole.lab.factory.tokenizer import MAX_LENGTH
from ramole.lab.training.lm import Encoded, answer_loss, collate, encode
from ramole.lab.training.workers import Workers
from ramole.zoo.catalog import SEPARATOR, Split

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of pre-training.

    Attributes:
        steps: optimiser steps.
        fit: share of documents whose answer is of the skill that the instruction asks for.
        plain: share of documents whose answer has no style.
        lr: learning rate at the start and at the end of the phase.
        pairs: share of documents that ask for two things.
        chatter: share of documents that begin with something else.
    """

    steps: int
    fit: float
    plain: float
    lr: tuple[float, float]
    pairs: float = 0.15
    chatter: float = TRAIN_CHATTER


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """Sizes of the model and of its training."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 352
    batch: int = 32
    prompt_weight: float = 0.05
    phases: tuple[Phase, ...] = (
        Phase(steps=5000, fit=0.95, plain=0.4, lr=(3e-3, 1.5e-3), pairs=0.0, chatter=0.0),
        Phase(steps=2200, fit=0.9, plain=0.3, lr=(1.5e-3, 3e-4), pairs=0.2),
        Phase(steps=350, fit=0.3, plain=0.5, lr=(3e-4, 5e-5)),
    )


def make_base(tokenizer: Any, recipe: BaseRecipe, *, seed: int) -> LlamaForCausalLM:
    """An untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def pretrain(
    tokenizer: Any,
    tasks: Sequence[Task],
    recipe: BaseRecipe,
    *,
    seed: int,
    processes: int = 1,
    progress: Callable[[float], None] = lambda fraction: None,
) -> LlamaForCausalLM:
    """Makes a model and trains it, one thread a process: two small ones are faster than two threads of one.

    The number of processes changes which documents make up a batch, hence the result.

    Args:
        progress: gets the finished fraction.
    """
    with TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        context = multiprocessing.get_context("spawn")
        helpers = [
            context.Process(
                target=_help, args=(meeting, Workers(rank, processes), tokenizer, tasks, recipe, seed), daemon=True
            )
            for rank in range(1, processes)
        ]
        for helper in helpers:
            helper.start()
        try:
            with _meeting(meeting, Workers(0, processes)) as workers:
                return _train(workers, tokenizer, tasks, recipe, seed, progress)
        finally:
            for helper in helpers:
                helper.terminate()
                helper.join()


@contextmanager
def _meeting(url: str, workers: Workers) -> Iterator[Workers]:
    if workers.size > 1:
        dist.init_process_group("gloo", init_method=url, rank=workers.rank, world_size=workers.size)
    try:
        yield workers
    finally:
        if workers.size > 1:
            dist.destroy_process_group()


def _help(url: str, workers: Workers, tokenizer: Any, tasks: Sequence[Task], recipe: BaseRecipe, seed: int) -> None:
    torch.set_num_threads(1)
    with _meeting(url, workers):
        _train(workers, tokenizer, tasks, recipe, seed, lambda fraction: None)


def _train(
    workers: Workers,
    tokenizer: Any,
    tasks: Sequence[Task],
    recipe: BaseRecipe,
    seed: int,
    progress: Callable[[float], None],
) -> LlamaForCausalLM:
    model = make_base(tokenizer, recipe, seed=seed).train()
    rng = Random(f"{seed}/base/{workers.rank}")
    parameters = list(model.parameters())
    # All gradients lie in one tensor: one message a step.
    gradients = torch.zeros(sum(p.numel() for p in parameters))
    for parameter, part in zip(parameters, torch.split(gradients, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    total, done = sum(phase.steps for phase in recipe.phases), 0
    for phase in recipe.phases:
        batches = _batches(tokenizer, tasks, phase, recipe.batch // workers.size, rng)
        for step in range(phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = _rate(phase, step) * min(1.0, (done + 1) / 50)
            batch = collate(next(batches), pad=tokenizer.pad_token_id, prompt_weight=recipe.prompt_weight)
            gradients.zero_()
            answer_loss(model, batch).backward()  # type: ignore[no-untyped-call]
            workers.average([gradients])
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            done += 1
            progress(done / total)
    return model.eval()


def save_base(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes model and tokenizer so that the Auto classes can open the folder."""
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def open_base(folder: Path) -> tuple[Any, Any]:
    """The base model, frozen, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _rate(phase: Phase, step: int) -> float:
    first, last = phase.lr
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / phase.steps))


def _batches(tokenizer: Any, tasks: Sequence[Task], phase: Phase, size: int, rng: Random) -> Iterator[list[Encoded]]:
    """Endless batches; documents of like length go together, so that little is padded."""
    while True:
        pool = sorted((_document(tokenizer, tasks, phase, rng) for _ in range(size * 8)), key=lambda e: len(e.ids))
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches


def _document(tokenizer: Any, tasks: Sequence[Task], phase: Phase, rng: Random) -> Encoded:
    task = rng.choice(tasks)
    if rng.random() < 0.5:
        # Families with few tasks get their share as well.
        family = rng.choice(list(dict.fromkeys(task.family for task in tasks)))
        task = rng.choice([task for task in tasks if task.family == family])
    item = draw_item(task, rng, Split.TRAIN)
    wording, before = rng.randrange(NUM_WORDINGS), some_chatter(rng, phase.chatter)
    if rng.random() >= phase.pairs:
        return encode(tokenizer, task.prompt(wording, item, before), _answer(task, item, phase, rng))
    second = replace(task, skill=rng.choice([skill for skill in item.answers if skill != task.skill]))
    answers = [_answer(one, item, phase, rng) for one in (task, second)]
    return encode(tokenizer, pair_prompt(task, second, wording, item, rng, before), SEPARATOR.join(answers))


def _answer(task: Task, item: Item, phase: Phase, rng: Random) -> str:
    skill = task.skill if rng.random() < phase.fit else rng.choice(tuple(item.answers))
    style = PLAIN if rng.random() < phase.plain else rng.choice(STYLES)
    return style.format(y=item.answers[skill])
