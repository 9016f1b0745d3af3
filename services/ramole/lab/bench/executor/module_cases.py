"""One wrapped module: our forms beside the paper's masked einsum, and beside the least possible work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import nn

from ramole.core.composition import PRESETS, Expert
from ramole.lab.bench.executor.floors import floor_of
from ramole.lab.bench.executor.masked_einsum import MaskedEinsum
from ramole.lab.bench.executor.options import ModuleCase
from ramole.lab.bench.executor.world import make_pairs, round_robin
from ramole.lab.bench.timing import Times, interleave, ratio
from ramole.lora.weights import AdapterWeights
from ramole.mixture.dispatch import layout_for
from ramole.mixture.mixture import Mixture
from ramole.mixture.native import NativeForm
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.mixture.slots import SlotShape
from ramole.mixture.torch_form import TorchForm

OURS, EINSUM, SHARED, BASE = "ramole", "masked_einsum", "shared_lora", "base"
TOGETHER, SEGMENTS = "torch_together", "torch_segments"
MODULE = "proj"
MAX_ERROR = 1e-4


class ModuleBench:
    """One case: a module with full slots, a step plan, and everybody's way to compute its update."""

    def __init__(self, case: ModuleCase, device: torch.device) -> None:
        self._case = case
        self._device = device
        torch.manual_seed(0)
        d, p = case.width, case.num_adapters
        base = nn.Linear(d, d, bias=False, device=device).requires_grad_(False)
        model = nn.ModuleDict({MODULE: base})
        pairs = [make_pairs(model, [MODULE], rank=case.rank, seed=i + 1)[MODULE] for i in range(p)]
        router = make_pairs(model, [MODULE], rank=case.router_rank, seed=0)[MODULE]
        shape = SlotShape(p + 1, case.rank, case.router_rank)
        mixture = Mixture(model, shape, AdapterWeights({MODULE: router}), layout_for(device, torch.float32, shape))
        for i, pair in enumerate(pairs):
            mixture.write(i + 1, AdapterWeights({MODULE: pair}))
        self._base, self._slots = base, mixture.modules[MODULE]
        composition = PRESETS["ramole" if case.k > 1 else "selection"]
        names = [str(i + 1) for i in range(p)]
        mixtures = [
            RequestMixture.build(composition, [Expert(name) for name in chosen], [int(name) for name in chosen])
            for chosen in islice(round_robin(names, case.k), case.num_requests)
        ]
        plan = build_step_plan(mixtures, [case.tokens_per_request] * case.num_requests)
        self._form = mixture.step(plan).form
        self._torch = TorchForm(plan, 1, device)
        self._num_requests = plan.num_requests
        self._x = torch.randn(plan.num_tokens, d, device=device)
        self._y = torch.zeros(plan.num_tokens, d, device=device)
        slots = torch.tensor(plan.adapters)
        self._einsum = MaskedEinsum(
            a=torch.stack([pairs[slot - 1].a for slot in slots.tolist()]).to(device),
            b=torch.stack([pairs[slot - 1].b for slot in slots.tolist()]).to(device),
            router_a=router.a.to(device),
            router_b=router.b.to(device),
            mask=torch.from_numpy(plan.mask).repeat_interleave(case.tokens_per_request, 0).to(device),
            is_routed=case.k > 1,
        )
        self._num_adapters = plan.num_adapters
        self._shared_a = torch.randn(case.k * case.rank, d, device=device)
        self._shared_b = torch.randn(case.k * case.rank, d, device=device)

    def run(self) -> dict[str, Any]:
        """Times the update alone; W x runs untimed before each, so that caches are as in a model."""
        case = self._case
        with torch.inference_mode():
            contestants = self._contestants()
            times = interleave(
                contestants,
                rounds=case.rounds,
                repeats=case.repeats,
                device=self._device,
                before=lambda: self._base(self._x),
            )
            errors = {name: self._error(run) for name, run in contestants.items() if name not in (SHARED, BASE)}
        floor = floor_of(
            [(case.width, case.width)],
            lora_widths=[(case.width, case.width)],
            num_tokens=self._x.shape[0],
            num_adapters=self._num_adapters,
            k=case.k,
            rank=case.rank,
        )
        return {
            "name": case.name,
            "kind": "module",
            "case": asdict(case) | {"T": self._x.shape[0], "p": self._num_adapters},
            "phase": "decode" if case.tokens_per_request == 1 else "prefill",
            "outputs_equal": max(errors.values()) < MAX_ERROR,
            "max_relative_error": max(errors.values()),
            "has_native": isinstance(self._form, NativeForm),
            "native_overhead_vs_best_torch": self._gain_of_native(times),
            "contestants": {
                name: {
                    "median_s": median(seconds) / case.repeats,
                    "ramole_is_faster_by": ratio(times, name, OURS),
                    "extra_over_base": ratio(times, name, BASE),
                }
                for name, seconds in times.items()
            },
            "times": times,
            "floor": dict(floor),
        }

    def _contestants(self) -> dict[str, Callable[[], object]]:
        x, y, slots, form, torch_form = self._x, self._y, self._slots, self._form, self._torch
        contestants: dict[str, Callable[[], object]] = {
            OURS: lambda: form.add(x, y, slots),
            EINSUM: lambda: y.add_(self._einsum(x)),
            SEGMENTS: lambda: torch_form.add_segments(x, y, slots, range(self._num_requests)),
            SHARED: lambda: y.addmm_(x @ self._shared_a.T, self._shared_b),
            BASE: lambda: self._base(x),
        }
        if self._case.tokens_per_request == 1:
            contestants[TOGETHER] = lambda: torch_form.add_decode(x, y, slots)
        return contestants

    def _gain_of_native(self, times: Times) -> float | str:
        """Overhead of the best torch form over that of the native one, or why there is none."""
        if not isinstance(self._form, NativeForm):
            return "no native form on this device: numba is missing, or the tensors are not float32 on the CPU"
        if self._case.tokens_per_request > 1:
            return "the native form is for decode"
        return min(ratio(times, form, OURS) for form in (TOGETHER, SEGMENTS))

    def _error(self, run: Callable[[], object]) -> float:
        want = self._einsum(self._x)
        self._y.zero_()
        run()
        return float((self._y - want).abs().max() / want.abs().max())


def run_module_case(case: ModuleCase, device: torch.device) -> dict[str, Any]:
    """Measures one case. `extra_over_base` is time of the update over time of W x; 0.1 = 10 % on top."""
    return ModuleBench(case, device).run()
