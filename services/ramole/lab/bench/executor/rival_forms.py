"""Other ways to compute the update of many LoRAs, as forms of our own engine: the rivals of a decode step on a GPU.

Request-level weights and OUTPUTS only: none of them routes.
"""

from __future__ import annotations

import numpy as np
import torch

from ramole.mixture.formulas import ExpertRows
from ramole.mixture.plan import FloatArray, StepPlan
from ramole.mixture.slots import ModuleSlots
from ramole.mixture.step import packed


class _RivalForm:
    """What every rival needs of a plan: the slots [T, k] of each token and their weights [T, k], 0 = no expert."""

    sums_steps = True

    def __init__(self, plan: StepPlan, num_modules: int, device: torch.device) -> None:
        if plan.is_routed.any() or plan.merges_parameters.any():
            raise ValueError("a rival form takes request-level weights and OUTPUTS only")
        self.num_tokens = plan.num_tokens
        self._usage: FloatArray = np.zeros((num_modules, *plan.slots.shape), np.float32)
        rows = ExpertRows.of(plan, device)
        weights = rows.gates * rows.scales
        lengths = torch.tensor(plan.lengths, device=device)
        self._slots = rows.slots.repeat_interleave(lengths, 0)
        self._weights = weights.repeat_interleave(lengths, 0)
        self._adapters = sorted(plan.adapters)

    def usage(self) -> FloatArray:
        """Nothing: a rival does not report what its experts got."""
        return self._usage


class LoopForm(_RivalForm):
    """One adapter after the other over the tokens that use it, as PEFT's mixed batch does."""

    def __init__(self, plan: StepPlan, num_modules: int, device: torch.device) -> None:
        super().__init__(plan, num_modules, device)
        used = {slot: (self._slots == slot) for slot in self._adapters}
        self._parts = [
            (slot, mask.any(1).nonzero()[:, 0], (self._weights * mask).sum(1)[mask.any(1), None])
            for slot, mask in used.items()
        ]

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """y[tokens] += a B (A x[tokens]) for each adapter."""
        x, y = packed(x), packed(y)
        for slot, tokens, weights in self._parts:
            u = (x[tokens] @ module.lora_a[slot].T) * weights.to(x.dtype)
            y.index_add_(0, tokens, u @ module.lora_b[slot])


class GatherForm(_RivalForm):
    """Each token's own A and B copied out of the slots, then two batched products."""

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """y_t += sum_i a_i B_i A_i x_t."""
        x, y = packed(x), packed(y)
        a = module.lora_a[self._slots].flatten(1, 2)  # [T, k R, d]
        u = torch.bmm(a, x.unsqueeze(-1)).view(*self._slots.shape, -1)
        h = (u * self._weights.to(x.dtype).unsqueeze(-1)).flatten(1)
        y += torch.bmm(h.unsqueeze(1), module.lora_b[self._slots].flatten(1, 2))[:, 0]


class DenseForm(_RivalForm):
    """Every token through every adapter of the step by two dense products, a mask [T, p] in between."""

    def __init__(self, plan: StepPlan, num_modules: int, device: torch.device) -> None:
        super().__init__(plan, num_modules, device)
        self._index = torch.tensor(self._adapters, device=device)
        mask = self._slots.unsqueeze(-1) == self._index  # [T, k, p]
        self._mask = (self._weights.unsqueeze(-1) * mask).sum(1)

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """y += (M o (x A^T)) B over all p adapters."""
        x, y = packed(x), packed(y)
        u = x @ module.lora_a[self._index].flatten(0, 1).T
        h = u.view(x.shape[0], len(self._adapters), -1) * self._mask.to(x.dtype).unsqueeze(-1)
        y += h.flatten(1) @ module.lora_b[self._index].flatten(0, 1)
