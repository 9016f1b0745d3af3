"""Routers of other papers over the same slots: Arrow (nothing to train), MoE and SMEAR (a gate trained here).

They retrieve nothing: each step offers them all adapters that a request may use. A gate knows the adapters of its
training only; of an adapter that came later it can not make use.

Arrow: Ostapenko et al., "Towards Modular LLMs by Building and Reusing a Library of LoRAs" (softmax over the top 3 of
|<v_i, x>|, v_i the first right singular vector of B_i A_i). SMEAR: Muqeeth et al., "Soft Merging of Experts with
Adaptive Routing" (parameters averaged by a gate that reads the mean of the prompt). MoE: a linear gate for each module
and token, as in the comparisons of LoraRetriever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

from ramole.lab.evaluation.views import pool_request
from ramole.lab.training.lm import Encoded, PaddedBatch, answer_loss, collate
from ramole.mixture.formulas import masked_softmax
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import FloatArray, StepPlan, build_step_plan
from ramole.mixture.slots import ModuleSlots
from ramole.mixture.step import Step, packed


class PoolForm:
    """y += sum_i a_i B_i A_i x over a whole pool, with a [T, S] from `weigh`; S slots."""

    sums_steps = True  # nobody asks what its experts got

    def __init__(self, plan: StepPlan, batch: PaddedBatch) -> None:
        self.plan = plan
        self._length = batch.ids.shape[1]
        self.is_prompt = (batch.weights > 0).cumsum(1) <= 1  # [b, l - 1]; the last position never is
        may_use = np.zeros((plan.num_requests, max((*plan.adapters, 0)) + 1), np.bool_)
        rows = np.arange(plan.num_requests)[:, None]
        may_use[rows, plan.slots] = True
        may_use[:, 0] = False
        self.may_use = torch.from_numpy(may_use).to(batch.ids.device)

    @property
    def num_tokens(self) -> int:
        """See `Form`."""
        return self.plan.num_tokens

    def usable(self, module: ModuleSlots) -> torch.Tensor:
        """[b, S]: the adapters of each request's pool that touch the module."""
        mask = torch.zeros(len(self.may_use), len(module.ranks), dtype=torch.bool, device=self.may_use.device)
        mask[:, : self.may_use.shape[1]] = self.may_use
        return mask & (module.device_ranks > 0)

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """See `Form`."""
        x, y = packed(x), packed(y)
        mask = self.usable(module)
        if not mask.any():
            return
        num_slots, rank, _ = module.lora_a.shape
        u = (x @ module.lora_a.flatten(0, 1).T).view(-1, num_slots, rank)
        y += self.combine(x, u, mask, module).flatten(1) @ module.lora_b.flatten(0, 1)

    def combine(self, x: torch.Tensor, u: torch.Tensor, mask: torch.Tensor, module: ModuleSlots) -> torch.Tensor:
        """h [T, S, R] from u [T, S, R]."""
        raise NotImplementedError

    def per_token(self, of_requests: torch.Tensor) -> torch.Tensor:
        """[b, ...] -> [T, ...]."""
        return of_requests.repeat_interleave(self._length, 0)

    def usage(self) -> FloatArray:
        """See `Form`; not recorded for rivals."""
        return np.zeros((0, *self.plan.slots.shape), np.float32)


def top(weights: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of each row, normalised to sum 1; the others 0. k = 0 keeps all."""
    if not 0 < k < weights.shape[-1]:
        return weights
    values, places = weights.topk(k, -1)
    kept = torch.zeros_like(weights).scatter(-1, places, values)
    return kept / kept.sum(-1, keepdim=True).clamp_min(1e-30)


class ArrowForm(PoolForm):
    """Arrow; `probes` are its prototypes in rank space, see `arrow_probes`."""

    def __init__(self, plan: StepPlan, batch: PaddedBatch, probes: Mapping[int, torch.Tensor], k: int) -> None:
        super().__init__(plan, batch)
        self._probes, self._k = probes, k

    def combine(self, x: torch.Tensor, u: torch.Tensor, mask: torch.Tensor, module: ModuleSlots) -> torch.Tensor:
        """See `PoolForm`."""
        scores = torch.einsum("tsr,sr->ts", u, self._probes[module.index]).abs()
        return top(masked_softmax(scores, self.per_token(mask)), self._k).unsqueeze(-1) * u


def arrow_probes(mixture: Mixture) -> dict[int, torch.Tensor]:
    """w_i [S, R] for each module, with A_i^T w_i = v_i, the first right singular vector of B_i A_i.

    Hence <v_i, x> = <w_i, u_i> with u_i = A_i x.
    """
    probes = {}
    for module in mixture.modules.values():
        a, b = module.lora_a.float(), module.lora_b.float()
        # |B A| in an orthonormal basis of the rows of A: B_i A_i = (B_i R^T) Q^T with A_i^T = Q R.
        q, r = torch.linalg.qr(a.transpose(1, 2))
        first = torch.linalg.svd(b.transpose(1, 2) @ r.transpose(1, 2)).Vh[:, 0]  # [S, R]
        probes[module.index] = (torch.linalg.pinv(a.transpose(1, 2)) @ (q @ first.unsqueeze(-1))).squeeze(-1)
    return probes


@dataclass(frozen=True, slots=True)
class Gate:
    """A linear gate for each module over the adapters of its training: logits x W^T, W [S, d]."""

    weights: Mapping[int, torch.Tensor]


class MoeForm(PoolForm):
    """Token-wise gate over outputs; k = 0 is the soft mixture of all."""

    def __init__(self, plan: StepPlan, batch: PaddedBatch, gate: Gate, k: int = 0) -> None:
        super().__init__(plan, batch)
        self._gate, self._k = gate, k

    def combine(self, x: torch.Tensor, u: torch.Tensor, mask: torch.Tensor, module: ModuleSlots) -> torch.Tensor:
        """See `PoolForm`."""
        a = masked_softmax(x @ self._gate.weights[module.index].T, self.per_token(mask))
        return top(a, self._k).unsqueeze(-1) * u


class SmearForm(PoolForm):
    """Request-wise gate over parameters, from the mean input of the prompt's tokens."""

    def __init__(self, plan: StepPlan, batch: PaddedBatch, gate: Gate) -> None:
        super().__init__(plan, batch)
        self._gate = gate

    def combine(self, x: torch.Tensor, u: torch.Tensor, mask: torch.Tensor, module: ModuleSlots) -> torch.Tensor:
        """See `PoolForm`."""
        tokens = x.view(len(mask), -1, x.shape[-1])[:, :-1]
        inside = self.is_prompt.unsqueeze(-1)
        mean = (tokens * inside).sum(1) / inside.sum(1)
        a = self.per_token(masked_softmax(mean @ self._gate.weights[module.index].T, mask)).unsqueeze(-1)
        return a * (a * u).sum(1, keepdim=True)


def train_gate(
    model: Any,
    mixture: Mixture,
    tasks: Sequence[Sequence[Encoded]],
    slots: Sequence[int],
    form: type[MoeForm | SmearForm],
    *,
    pad: int,
    seed: int,
    steps: int,
    lr: float = 1e-2,
    batch_size: int = 24,
) -> Gate:
    """Trains a gate over the adapters in `slots` by the loss of the answers; base and adapters are frozen.

    Args:
        tasks: training examples of the tasks whose adapters those are.
    """
    rng = Random(f"{seed}/gate")
    weights = {m.index: torch.zeros(m.lora_a.shape[0], m.lora_a.shape[2]) for m in mixture.modules.values()}
    device = next(model.parameters()).device
    weights = {index: w.to(device).requires_grad_(True) for index, w in weights.items()}
    gate = Gate(weights)
    pool = pool_request([slot - 1 for slot in slots])
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10) * (1 - step / steps)
        examples = [rng.choice(rng.choice(tasks)) for _ in range(batch_size)]
        batch = collate(examples, pad=pad).to(device)
        plan = build_step_plan([pool] * len(examples), [batch.ids.shape[1]] * len(examples))
        with mixture.running_step(Step(plan, form(plan, batch, gate))):
            loss = answer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Gate({index: w.detach() for index, w in weights.items()})
