"""The form for any device and dtype, and for training: torch operations."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ramole.mixture.formulas import ExpertRows, combine, expert_weights, route
from ramole.mixture.plan import FloatArray, StepPlan
from ramole.mixture.slots import ModuleSlots
from ramole.mixture.step import Layout, packed


class TorchForm:
    """Decode rows all together, longer segments one by one."""

    sums_steps = True

    def __init__(self, plan: StepPlan, num_modules: int, device: torch.device) -> None:
        self.plan = plan
        self._rows = ExpertRows.of(plan, device)
        self._segments = plan.segments
        decode = plan.slots[: plan.num_decode]
        adapters, columns = np.unique(decode, return_inverse=True)
        self._decode_adapters = torch.from_numpy(adapters).to(device)
        self._decode_columns = torch.from_numpy(columns.reshape(decode.shape)).to(device)
        self._usage: list[torch.Tensor | None] = [None] * num_modules
        self._entropies: list[torch.Tensor] = []

    @property
    def num_tokens(self) -> int:
        """See `Form`."""
        return self.plan.num_tokens

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """See `Form`. While the router is trained only segments are computed: they carry gradients."""
        # A quantised base may take and give another dtype than its adapters have.
        x, y = packed(x).to(module.lora_a.dtype), packed(y)
        if self.plan.num_decode > 1 and not module.router_a.requires_grad:
            self.add_decode(x, y, module)
            self.add_segments(x, y, module, range(self.plan.num_decode, self.plan.num_requests))
        else:
            self.add_segments(x, y, module, range(self.plan.num_requests))

    def add_segments(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots, requests: range | list[int]) -> None:
        """Adds the update of some requests, each by two GEMMs of rank k R.

        Args:
            x: [T, d]. y: [T, o], changed in place.
        """
        for i in requests:
            slots_of = self.plan.slots[i]
            if not module.ranks[slots_of].any():
                continue
            num_experts = int(np.count_nonzero(slots_of))
            rows = self._rows.cut(slice(i, i + 1), num_experts)
            slots = rows.slots[0]
            start, stop = self._segments[i]
            xs = x[start:stop]
            u = (xs @ module.lora_a[slots].flatten(0, 1).T).view(-1, num_experts, module.lora_a.shape[1])
            scores = None
            if self.plan.is_routed[i]:
                scores = route(xs @ module.router_a.T, module.coupling(slots).unsqueeze(0), u)
            a = expert_weights(scores, rows).expand(stop - start, -1)
            if module.router_a.requires_grad and num_experts > 1:
                self._entropies.append(torch.special.entr(a.detach()).sum(-1).mean() / math.log(num_experts))
            h = combine(u, a, rows)
            # Not y[start:stop] += ...: it writes y a second time, which autograd refuses where the slice is all of y.
            y.narrow(0, start, stop - start).add_(h.flatten(1) @ module.lora_b[slots].flatten(0, 1))
            self._record(module.index, i, F.pad(a.sum(0, keepdim=True), (0, len(slots_of) - num_experts)))

    def add_decode(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """Adds the update of the leading one-token requests, all together.

        Shrink is one GEMM over their unique adapters, of which each row keeps its own experts' columns; expand is a
        weighted bag of rows of B, which copies nothing and reads own rows only.

        Args:
            x: [T, d]. y: [T, o], changed in place.
        """
        n = self.plan.num_decode
        num_slots, rank, _ = module.lora_a.shape
        if not module.ranks[self.plan.slots[:n]].any():
            return
        rows = self._rows.cut(slice(0, n), self.plan.slots.shape[1])
        shrunk = x[:n] @ module.lora_a[self._decode_adapters].flatten(0, 1).T
        columns = self._decode_columns.unsqueeze(-1).expand(-1, -1, rank)
        u = shrunk.view(n, -1, rank).gather(1, columns)
        scores = None
        if self.plan.is_routed[:n].any():
            scores = route(x[:n] @ module.router_a.T, module.coupling(rows.slots), u)
        a = expert_weights(scores, rows)
        h = combine(u, a, rows)
        bag = (rows.slots.unsqueeze(-1) * rank + torch.arange(rank, device=x.device)).flatten(1)
        table = module.lora_b.view(num_slots * rank, -1)
        y[:n] += F.embedding_bag(bag, table, per_sample_weights=h.flatten(1), mode="sum")
        self._record(module.index, 0, a)

    def usage(self) -> FloatArray:
        """See `Form`."""
        out = np.zeros((len(self._usage), *self.plan.slots.shape), np.float32)
        for module, used in enumerate(self._usage):
            if used is not None:
                out[module] = used.cpu().numpy()
        return out

    def gate_entropy(self) -> float:
        """Of the weights that routers in training gave, mean over tokens, requests and modules; 1 = uniform."""
        return float(torch.stack(self._entropies).mean()) if self._entropies else 1.0

    def _record(self, module: int, first: int, weights: torch.Tensor) -> None:
        total = self._usage[module]
        if total is None:
            total = self._usage[module] = torch.zeros_like(self._rows.gates)
        total[first : first + weights.shape[0]] += weights.detach()


def torch_layout(device: torch.device) -> Layout:
    """Torch operations only."""
    return lambda plan, num_modules: TorchForm(plan, num_modules, device)
