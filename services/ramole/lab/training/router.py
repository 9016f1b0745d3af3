"""Trains the RouterLoRA: A_r and B_r of every wrapped module, through the very forward that serves.

Base and experts are frozen; the loss is that of the answer tokens. Each step shows the router a few experts of every
task, some of them left out at random (LoRA dropout), so that it learns to compare what is there instead of waiting for
one adapter (Zhao et al., "Retrieval-Augmented Mixture of LoRA Experts for Uploadable Machine Learning").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.core.errors import InvalidInput
from ramole.lab.training.checkpoint import Checkpoints
from ramole.lab.training.lm import Encoded, answer_loss, collate
from ramole.lab.training.workers import Workers
from ramole.lora.weights import LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan
from ramole.mixture.step import Step
from ramole.mixture.torch_form import TorchForm

_ROUTER = Composition(Weighting.ROUTER, Merge.OUTPUTS)


@dataclass(frozen=True, slots=True)
class RouterRecipe:
    """How a router is trained.

    Attributes:
        k: candidates of a task before dropout.
        random_share: how often the candidates after the nearest are drawn at random instead of retrieved.
        dropout: probability of leaving a candidate out.
        min_survivors: candidates that dropout always leaves.
        num_groups, group_size: a step takes this many tasks, and this many prompts of each.
        hide_own: how often a task's own adapter is no candidate, as for prompts that nobody has an adapter for.
    """

    steps: int = 300
    k: int = 3
    random_share: float = 0.5
    dropout: float = 0.5
    min_survivors: int = 2
    num_groups: int = 6
    group_size: int = 4
    lr: float = 5e-3
    hide_own: float = 0.0

    def __post_init__(self) -> None:
        if not 1 < self.min_survivors <= self.k:
            raise InvalidInput(
                f"{self.min_survivors} of {self.k} candidates would survive dropout",
                field="router.min_survivors",
                remedy="keep at least 2, at most k: a single expert needs no router",
            )


@dataclass(frozen=True, slots=True)
class RouterTask:
    """Training prompts of one task.

    Attributes:
        examples: the n prompts with their answers.
        nearest: for each prompt the slots of all training experts, the most similar first, [n, num_experts].
        own: the slot of the expert that was made for the task; 0 if there is none.
    """

    examples: tuple[Encoded, ...]
    nearest: npt.NDArray[np.int64]
    own: int = 0


@dataclass(frozen=True, slots=True)
class StepLog:
    """One step of the training.

    Attributes:
        step: counted from 1.
        loss: mean cross entropy of the answer tokens, nats.
        gate_entropy: of the expert weights, mean over tokens and modules, as a share of the uniform weights' entropy.
    """

    step: int
    loss: float
    gate_entropy: float


def train_router(
    model: Any,
    mixture: Mixture,
    tasks: Sequence[RouterTask],
    recipe: RouterRecipe,
    *,
    pad: int,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
    log: Callable[[StepLog], None] = lambda step: None,
    workers: Workers | None = None,
    checkpoints: Checkpoints | None = None,
) -> dict[str, LoraPair]:
    """Trains the routers of all modules that `mixture` has wrapped.

    A_r starts at random and B_r at zero, hence at the uniform mixture exactly. A run that goes on from a checkpoint
    ends where it would have ended without the stop.

    Args:
        model: the frozen base model that carries `mixture`.
        mixture: the experts of `tasks` are in its slots.
        progress: gets the finished fraction after each step.
        log: gets each step's figures; those of this worker.
        workers: who trains along, each on batches of its own.
        checkpoints: where to go on from, and to save.

    Returns:
        (A_r, B_r) by module name; `mixture` uses them from now on.
    """
    workers = workers or Workers()
    generator = torch.Generator().manual_seed(Random(f"{seed}/router").getrandbits(32))
    for module in mixture.modules.values():
        d = module.router_a.shape[1]
        a = torch.randn(module.router_a.shape, generator=generator) / math.sqrt(d)
        module.set_router(LoraPair(a, torch.zeros_like(module.router_b)))
    model.requires_grad_(False)
    device = next(model.parameters()).device
    parameters = mixture.trainable_router()
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    done = checkpoints.load(parameters, optimizer) if checkpoints else 0
    for step in range(done, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 20) * (1 - step / recipe.steps)
        examples, plan = _step(tasks, recipe, Random(f"{seed}/router/{workers.rank}/{step}"))
        form = TorchForm(plan, len(mixture.modules), device)
        with mixture.running_step(Step(plan, form)):
            loss = answer_loss(model, collate(examples, pad=pad).to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # A batch need not touch every module, but all workers must average the same tensors.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        workers.average(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        log(StepLog(step + 1, float(loss.detach()), form.gate_entropy()))
        progress((step + 1) / recipe.steps)
        if checkpoints and workers.is_first and (step + 1) % checkpoints.every == 0:
            checkpoints.save(step + 1, parameters, optimizer)
    model.requires_grad_(False)
    pairs = {
        name: LoraPair(module.router_a.detach().clone(), module.router_b.detach().clone())
        for name, module in mixture.modules.items()
    }
    for name, module in mixture.modules.items():
        # Not training any more, the modules read the couplings they keep: these must be made of the new B_r.
        module.set_router(pairs[name])
    return pairs


def _step(tasks: Sequence[RouterTask], recipe: RouterRecipe, rng: Random) -> tuple[list[Encoded], StepPlan]:
    # All prompts of a task share their experts in a step: to the mixture they are one long request.
    examples: list[Encoded] = []
    mixtures: list[RequestMixture] = []
    for task in rng.sample(tasks, min(recipe.num_groups, len(tasks))):
        chosen = rng.choices(range(len(task.examples)), k=recipe.group_size)
        nearest = task.nearest[chosen[0]].tolist()
        if rng.random() < recipe.hide_own:
            nearest = [slot for slot in nearest if slot != task.own]
        slots = survivors(candidates(nearest, recipe, rng), recipe, rng)
        mixtures.append(RequestMixture.build(_ROUTER, [Expert(digest="")] * len(slots), slots))
        examples.extend(task.examples[i] for i in chosen)
    longest = max(len(example.ids) for example in examples)
    return examples, build_step_plan(mixtures, [recipe.group_size * longest] * len(mixtures))


def candidates(nearest: Sequence[int], recipe: RouterRecipe, rng: Random) -> list[int]:
    """k slots: the nearest ones, or the nearest one and random others."""
    if rng.random() < recipe.random_share:
        return [nearest[0], *rng.sample(list(nearest[1:]), recipe.k - 1)]
    return list(nearest[: recipe.k])


def survivors(slots: Sequence[int], recipe: RouterRecipe, rng: Random) -> list[int]:
    """LoRA dropout: what is left of the candidates, at least `min_survivors`."""
    order = rng.sample(list(slots), len(slots))
    rest = [slot for slot in order[recipe.min_survivors :] if rng.random() >= recipe.dropout]
    return order[: recipe.min_survivors] + rest
