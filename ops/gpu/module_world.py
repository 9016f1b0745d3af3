"""One wrapped module with full slots, batches for it, and what they should come to in float64."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan
from ramole.mixture.slots import ModuleSlots, SlotShape
from ramole.mixture.triton_form import triton_layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCase:
    """A batch through one module of widths d and o.

    Attributes:
        num_requests, num_experts, num_adapters: b, k and p. Request i uses adapters i k, i k + 1, ... modulo p; one of
            seven uses none.
        num_tokens: of each request; 1 is decode.
        ranks: of the adapters in turn; empty = all have `rank`.
    """

    name: str
    d: int
    o: int
    num_requests: int
    num_experts: int
    num_adapters: int
    num_tokens: int = 1
    rank: int = 16
    ranks: tuple[int, ...] = ()
    router_rank: int = 8
    dtype: torch.dtype = torch.bfloat16
    weighting: Weighting = Weighting.ROUTER
    merge: Merge = Merge.OUTPUTS

    def plan(self) -> StepPlan:
        """The step."""
        rng = random.Random(0)
        mixtures = []
        for i in range(self.num_requests):
            k = 0 if i % 7 == 6 else self.num_experts
            slots = [1 + (i * self.num_experts + j) % self.num_adapters for j in range(k)]
            experts = [Expert("", rng.random(), rng.uniform(0.1, 1), rng.choice([1.0, 0.7])) for _ in slots]
            mixtures.append(RequestMixture.build(Composition(self.weighting, self.merge, tau=0.3), experts, slots))
        return build_step_plan(mixtures, [self.num_tokens] * self.num_requests)


class ModuleWorld:
    """A Linear with random weights, its router, and `num_adapters` random adapters in its slots."""

    def __init__(self, case: ModuleCase, device: torch.device, *, seed: int = 0) -> None:
        self.case, self.device = case, device
        self._generator = torch.Generator(device).manual_seed(seed)
        linear = torch.nn.Linear(case.d, case.o, bias=False, device=device, dtype=case.dtype).requires_grad_(False)
        self.base = linear
        shape = SlotShape(case.num_adapters + 1, case.rank, case.router_rank)
        q, d, o = case.router_rank, case.d, case.o
        router = AdapterWeights({"proj": LoraPair(self.random(q, d, scale=d**-0.5), self.random(o, q, scale=o**-0.5))})
        model = torch.nn.ModuleDict({"proj": linear})
        self.mixture = Mixture(model, shape, router, triton_layout(device, shape))
        for slot in range(1, case.num_adapters + 1):
            r = case.ranks[slot % len(case.ranks)] if case.ranks else case.rank
            pair = LoraPair(self.random(r, d, scale=d**-0.5), self.random(o, r, scale=1.0))
            self.mixture.write(slot, AdapterWeights({"proj": pair}))

    @property
    def module(self) -> ModuleSlots:
        """The slots."""
        return self.mixture.modules["proj"]

    def random(self, *size: int, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers."""
        return (scale * torch.randn(size, generator=self._generator, device=self.device)).to(self.case.dtype)

    def add(self, plan: StepPlan, x: torch.Tensor, y: torch.Tensor) -> None:
        """One step of the form for GPUs, planned anew."""
        with torch.inference_mode():
            self.mixture.step(plan).form.add(x, y, self.module)


def expected(x: torch.Tensor, module: ModuleSlots, plan: StepPlan) -> torch.Tensor:
    """The update of a step in float64 over the stored tensors, request by request: [T, o]."""
    y = torch.zeros(x.shape[0], module.lora_b.shape[2], dtype=torch.float64, device=x.device)
    for i, (start, stop) in enumerate(plan.segments):
        slots = [int(slot) for slot in plan.slots[i] if slot]
        if not slots:
            continue
        xs = x[start:stop].double()
        a, b, c = (tensor[slots].double() for tensor in (module.lora_a, module.lora_b, module.c))
        u = torch.einsum("td,krd->tkr", xs, a)
        weights = torch.tensor(plan.gates[i, : len(slots)], dtype=torch.float64, device=x.device).expand(len(xs), -1)
        if plan.is_routed[i]:
            q = xs @ module.router_a.double().T
            weights = torch.softmax(weights + torch.einsum("tq,kqr,tkr->tk", q, c, u) / math.sqrt(q.shape[1]), -1)
        h = weights[..., None] * u
        if plan.merges_parameters[i]:
            h = h.sum(1, keepdim=True) * weights[..., None]
        h = h * torch.tensor(plan.scales[i, : len(slots)], dtype=torch.float64, device=x.device)[None, :, None]
        y[start:stop] = torch.einsum("tkr,kro->to", h, b)
    return y
