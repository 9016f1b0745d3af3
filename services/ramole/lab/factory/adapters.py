"""One LoRA for each task. Many are trained in one pass; each is saved as an ordinary PEFT folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from ramole.lab.factory.skills import HELD_OUT_WORDING
from ramole.lab.factory.splits import TRAIN_CHATTER, TaskData, draw_item, pair_prompt
from ramole.lab.factory.tasks import STYLES, some_chatter
from ramole.lab.training.lm import Encoded, collate, encode, exact_matches, token_losses
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.zoo.catalog import SEPARATOR, Split

ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
ALL_LINEAR = (*ATTENTION, "down_proj", "gate_proj", "up_proj")


HALVES = 0.2
"""Halves of two-skill prompts for each training example."""


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """How one adapter is shaped and trained; `is_half` ones are rounded to bfloat16 before they are measured."""

    rank: int
    alpha: int
    targets: tuple[str, ...]
    lr: float
    uses_rslora: bool = False
    is_half: bool = False
    steps: int = 70
    batch: int = 8

    @property
    def scaling(self) -> float:
        """What PEFT multiplies B A x by."""
        return self.alpha / (math.sqrt(self.rank) if self.uses_rslora else self.rank)


RECIPES: tuple[AdapterRecipe, ...] = (
    AdapterRecipe(8, 16, ("q_proj", "v_proj"), 1e-2),
    AdapterRecipe(4, 8, ATTENTION, 8e-3),
    AdapterRecipe(8, 16, ("q_proj", "v_proj"), 1e-2),
    AdapterRecipe(16, 16, ("q_proj", "v_proj"), 8e-3, is_half=True),
    AdapterRecipe(4, 8, ("q_proj", "v_proj"), 1e-2),
    AdapterRecipe(4, 8, ALL_LINEAR, 5e-3),
    AdapterRecipe(8, 8, ATTENTION, 6e-3),
    AdapterRecipe(8, 12, ("q_proj", "v_proj"), 4e-3, uses_rslora=True),
)
"""Ranks, targets, scalings and number formats differ on purpose; the tasks take these in turns."""


class BankedLinear(nn.Module):
    """A frozen linear layer that carries G LoRAs; the batch is G equal runs of rows, one for each.

    y = W x + scaling B_g A_g x, with A [G, r, d] and B [G, o, r].
    """

    def __init__(self, linear: nn.Linear, recipe: AdapterRecipe, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.linear = linear
        self.scaling = recipe.scaling
        # As PEFT starts: A from kaiming_uniform with a = sqrt 5, which is uniform within 1 / sqrt d; B zero.
        bound = 1 / math.sqrt(linear.in_features)
        shape = (recipe.rank, linear.in_features)
        a = torch.stack([torch.empty(shape).uniform_(-bound, bound, generator=generator) for generator in generators])
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(torch.zeros(len(generators), linear.out_features, recipe.rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[G * n, l, d] -> [G * n, l, o]."""
        rows = x.reshape(self.a.shape[0], -1, x.shape[-1])
        update = torch.bmm(torch.bmm(rows, self.a.transpose(1, 2)), self.b.transpose(1, 2))
        out: torch.Tensor = self.linear(x)
        return out + self.scaling * update.view_as(out)


@dataclass(frozen=True, slots=True)
class Bank:
    """G LoRAs of one recipe on one base.

    Attributes:
        model: the base; it computes with the LoRAs.
        layers: the wrapped modules by name.
        recipe: of all of them.
    """

    model: Any
    layers: dict[str, BankedLinear]
    recipe: AdapterRecipe

    @classmethod
    def put_on(cls, model: Any, recipe: AdapterRecipe, seeds: Sequence[str]) -> Bank:
        """Wraps the target modules of `model`; one LoRA for each seed."""
        generators = [torch.Generator().manual_seed(Random(seed).getrandbits(32)) for seed in seeds]
        layers = {}
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in recipe.targets:
                layers[name] = BankedLinear(module, recipe, generators)
                model.set_submodule(name, layers[name])
        return cls(model, layers, recipe)

    def train(self, texts: Sequence[Sequence[Encoded]], seeds: Sequence[str], *, pad: int) -> None:
        """Trains all LoRAs, each on its own examples alone."""
        recipe, rngs = self.recipe, [Random(seed) for seed in seeds]
        parameters = [p for layer in self.layers.values() for p in (layer.a, layer.b)]
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * min(1.0, (step + 1) / 10) * (1 - step / recipe.steps)
            chosen = [e for own, rng in zip(texts, rngs, strict=True) for e in rng.choices(own, k=recipe.batch)]
            batch = collate(chosen, pad=pad)
            losses = token_losses(self.model, batch)
            # A mean for each LoRA, and their sum: no LoRA feels how long the others' answers are.
            per_lora = losses.view(len(texts), -1).sum(1) / batch.weights.view(len(texts), -1).sum(1)
            optimizer.zero_grad()
            per_lora.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if recipe.is_half:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.copy_(parameter.bfloat16())

    def share_right(self, texts: Sequence[Sequence[Encoded]], *, pad: int) -> list[float]:
        """Exact match of each LoRA on its own examples, the same number for each."""
        right = exact_matches(self.model, collate([e for own in texts for e in own], pad=pad))
        size = len(texts[0])
        return [sum(right[i : i + size]) / size for i in range(0, len(right), size)]

    def save(self, number: int, folder: Path, *, base_id: str) -> None:
        """Writes PEFT's two files, without anything that differs from one machine or run to the next."""
        from peft import LoraConfig
        from safetensors.torch import save_file

        recipe = self.recipe
        dtype = torch.bfloat16 if recipe.is_half else torch.float32
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = layer.a.detach()[number].to(dtype, copy=True)
            tensors[f"base_model.model.{name}.lora_B.weight"] = layer.b.detach()[number].to(dtype, copy=True)
        save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            target_modules=list(recipe.targets),
            use_rslora=recipe.uses_rslora,
            task_type="CAUSAL_LM",
            base_model_name_or_path=base_id,
            inference_mode=True,
        )
        config.save_pretrained(str(folder))
        path = folder / CONFIG_FILE
        content = json.loads(path.read_text()) | {"target_modules": sorted(recipe.targets)}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def train_texts(tokenizer: Any, one: TaskData, *, seed: int) -> list[Encoded]:
    """What one adapter is trained on: the task's examples, and its half of prompts that ask for two things."""
    singles = [encode(tokenizer, example.prompt, example.answer) for example in one.train]
    rng = Random(f"{seed}/{one.task.name}/halves")
    return singles + [_half(tokenizer, one, rng, is_first=i % 2 == 0) for i in range(round(len(singles) * HALVES))]


def _half(tokenizer: Any, one: TaskData, rng: Random, *, is_first: bool) -> Encoded:
    # The other half is there, but nothing is learned from it.
    task = one.task
    item = draw_item(task, rng, Split.TRAIN)
    skill = rng.choice([skill for skill in item.answers if skill != task.skill])
    other = replace(task, skill=skill, style=rng.choice(STYLES))
    first, second = (task, other) if is_first else (other, task)
    before = some_chatter(rng, TRAIN_CHATTER)
    prompt = pair_prompt(first, second, rng.randrange(HELD_OUT_WORDING), item, rng, before)
    head = encode(tokenizer, prompt, f"{first.answer(item)}{SEPARATOR.rstrip()}")
    until_second = head.ids[:-1]
    if is_first:
        return Encoded(until_second, head.num_prompt)
    tail = tokenizer(second.answer(item), add_special_tokens=False)["input_ids"]
    return Encoded((*until_second, *tail, tokenizer.eos_token_id), len(until_second))


def test_texts(tokenizer: Any, one: TaskData) -> list[Encoded]:
    """The task's test prompts with their answers."""
    return [encode(tokenizer, example.prompt, example.answer) for example in one.test]


def share_right(model: Any, test: Sequence[Encoded], *, pad: int) -> float:
    """Exact match under greedy decoding, in [0, 1]."""
    right = exact_matches(model, collate(test, pad=pad))
    return sum(right) / len(right)
