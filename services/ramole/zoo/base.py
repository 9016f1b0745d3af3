"""The base model: a small Llama that has all skills and all styles, but does not know which one is wanted.

First it learns the computations from documents whose answer mostly fits the instruction, in a random style. Then the
instruction is blurred: most answers belong to another skill of the same input, and most are plain. What is left for
an adapter to teach is what to do and how to say it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from ramole.training.lm import Encoded, answer_loss, collate, encode
from ramole.zoo.splits import TaskData
from ramole.zoo.tasks import PLAIN, STYLES
from ramole.zoo.tokenizer import MAX_LENGTH

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
    """

    steps: int
    fit: float
    plain: float
    lr: tuple[float, float]


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """Sizes of the model and of its training."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 352
    batch: int = 48
    prompt_weight: float = 0.03
    phases: tuple[Phase, ...] = (
        Phase(steps=1900, fit=0.8, plain=0.3, lr=(3e-3, 5e-4)),
        Phase(steps=300, fit=0.3, plain=0.5, lr=(5e-4, 5e-5)),
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
    model: Any,
    tokenizer: Any,
    data: Sequence[TaskData],
    recipe: BaseRecipe,
    *,
    seed: int,
    progress: Callable[[float], None],
) -> None:
    """Trains `model` in place. `progress` gets the finished fraction."""
    rng = Random(f"{seed}/base")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    total, done = sum(phase.steps for phase in recipe.phases), 0
    for phase in recipe.phases:
        batches = _batches(tokenizer, data, phase, recipe.batch, rng)
        for step in range(phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = _rate(phase, step) * min(1.0, (done + 1) / 50)
            batch = collate(next(batches), pad=tokenizer.pad_token_id, prompt_weight=recipe.prompt_weight)
            loss = answer_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            progress(done / total)
    model.eval()


def save_base(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes model and tokenizer so that the Auto classes can open the folder."""
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _rate(phase: Phase, step: int) -> float:
    first, last = phase.lr
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / phase.steps))


def _batches(tokenizer: Any, data: Sequence[TaskData], phase: Phase, size: int, rng: Random) -> Iterator[list[Encoded]]:
    """Endless batches; documents of like length go together, so that little is padded."""
    while True:
        pool = sorted((_document(tokenizer, data, phase, rng) for _ in range(size * 8)), key=lambda e: len(e.ids))
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches


def _document(tokenizer: Any, data: Sequence[TaskData], phase: Phase, rng: Random) -> Encoded:
    one = rng.choice(data)
    task = one.task
    item = task.draw(rng)
    while item.text in one.test_inputs and not task.is_closed_book:
        item = task.draw(rng)
    skill = task.skill if rng.random() < phase.fit else rng.choice(tuple(item.answers))
    style = PLAIN if rng.random() < phase.plain else rng.choice(STYLES)
    prompt = task.prompt(rng.randrange(len(task.wordings)), item)
    return encode(tokenizer, prompt, style.format(y=item.answers[skill]))
