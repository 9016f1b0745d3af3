"""Decode steps with every row busy: what adapters add to a step of the bare base, beside other ways to add them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from ramole.core.errors import Internal
from ramole.lab.bench.executor.floors import floor_of
from ramole.lab.bench.executor.options import StepCase
from ramole.lab.bench.executor.rig import TOKEN_BUDGET, Rig, from_memory, make_sequence
from ramole.lab.bench.executor.rival_forms import DenseForm, GatherForm, LoopForm
from ramole.lab.bench.executor.world import Request, make_base, make_pairs, make_prompts, make_router, round_robin
from ramole.lab.bench.timing import Times, clock, ratio
from ramole.lora.weights import AdapterWeights
from ramole.mixture.dispatch import layout_for
from ramole.mixture.plan import StepPlan
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Form, Layout
from ramole.mixture.surgery import widths_of

OURS, ROUTED, BASE, EAGER, EAGER_BASE = "ramole", "ramole_routed", "base", "ramole_eager", "base_eager"
RIVALS: dict[str, Callable[[StepPlan, int, torch.device], Form]] = {
    "torch_loop": LoopForm,
    "gather_bmm": GatherForm,
    "dense": DenseForm,
}
WARM_UP_STEPS = 3
MAX_DISTINCT = 8


@dataclass(slots=True)
class Switch:
    """A layout that can be exchanged between steps: one base model in memory serves every contestant."""

    current: Layout

    def __call__(self, plan: StepPlan, num_modules: int) -> Form:
        """See `Layout`."""
        return self.current(plan, num_modules)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to run the same step. Rivals run eagerly: what they do depends on the batch, so no graph holds it."""

    layout: Layout
    uses_graphs: bool = False
    preset: str = "mixture"
    has_adapters: bool = True


class StepBench:
    """One base with all its adapters resident; `run` sweeps over batches."""

    def __init__(self, case: StepCase, device: torch.device) -> None:
        self._case, self._device = case, device
        dtype = getattr(torch, case.dtype)
        max_rows = max(b for b, _, _ in case.sweep)
        # Whoever is prefilled first decodes while the others are.
        num_waiting_steps = -(-max_rows * case.prompt_tokens // (TOKEN_BUDGET - max_rows)) + 1
        self._new_tokens = num_waiting_steps + WARM_UP_STEPS + case.num_steps + 1
        self._max_len = case.prompt_tokens + self._new_tokens
        model = make_base(case.base, max_len=self._max_len, device=device, dtype=dtype)
        linears = {n: widths_of(m, n) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        self._widths = list(linears.values())
        self._lora_widths = [w for name, w in linears.items() if name.rpartition(".")[2] in case.targets]
        num_adapters = max(p for _, p, _ in case.sweep)
        self._names = [f"adapter-{i}" for i in range(num_adapters)]
        # Time does not depend on the numbers: a few adapters under many names save minutes and memory of the host.
        distinct = [
            AdapterWeights(make_pairs(model, case.targets, rank=case.rank, seed=i + 1))
            for i in range(min(num_adapters, MAX_DISTINCT))
        ]
        adapters = {name: distinct[i % MAX_DISTINCT] for i, name in enumerate(self._names)}
        shape = SlotShape(num_adapters + 1, case.rank, case.router_rank)
        self._ours = layout_for(device, dtype, shape)
        self._switch = Switch(self._ours)
        self._rig = Rig.build(
            model,
            from_memory(adapters),
            num_slots=num_adapters,
            slot_rank=case.rank,
            max_rows=max_rows,
            max_len=self._max_len,
            router=make_router(model, case.targets, rank=case.router_rank),
            layout=self._switch,
        )

    def run(self) -> dict[str, Any]:
        """Seconds of a step and its ratio to the bare base, for each batch and contestant."""
        points = [self._point(*point) for point in self._case.sweep]
        is_equal = all(point["logits_agree"] for point in points)
        return {
            "name": self._case.name,
            "kind": "steps",
            "case": asdict(self._case),
            "tokens_equal": is_equal,
            "points": points,
        }

    def _contestants(self) -> dict[str, Contestant]:
        device = self._device
        rivals = {
            name: Contestant(lambda plan, n, form=form: form(plan, n, device))  # type: ignore[misc]
            for name, form in RIVALS.items()
        }
        return {
            BASE: Contestant(self._ours, uses_graphs=True, has_adapters=False),
            OURS: Contestant(self._ours, uses_graphs=True),
            ROUTED: Contestant(self._ours, uses_graphs=True, preset="ramole"),
            EAGER_BASE: Contestant(self._ours, has_adapters=False),
            EAGER: Contestant(self._ours),
            **rivals,
        }

    def _point(self, b: int, p: int, k: int) -> dict[str, Any]:
        case = self._case
        chosen = round_robin(self._names[:p], k)
        prompts = make_prompts(b, (case.prompt_tokens, case.prompt_tokens), case.base.vocab_size)
        requests = [Request(str(i), prompt, next(chosen)) for i, prompt in enumerate(prompts)]
        times: Times = {name: [] for name in self._contestants()}
        first: dict[str, list[int]] = {}
        for i in range(case.rounds + 1):
            for name, contestant in self._contestants().items():
                seconds, first[name] = self._decode(contestant, requests)
                if i:
                    times[name].append(seconds)
        agreeing = [sum(a == b for a, b in zip(first[OURS], first[name], strict=True)) for name in (EAGER, *RIVALS)]
        floor = floor_of(
            self._widths,
            lora_widths=self._lora_widths,
            num_tokens=b,
            num_adapters=min(p, b * k),
            k=k,
            rank=case.rank,
        )
        return {
            "b": b,
            "p": min(p, b * k),
            "k": k,
            "step_s": {name: median(seconds) for name, seconds in times.items()},
            "over_base": {name: ratio(times, name, BASE) for name in times},
            "first_tokens_equal": min(agreeing) / b,
            # Two ways to round may decide a tie differently, so not every token must agree.
            "logits_agree": min(agreeing) >= 0.8 * b,
            "floor": dict(floor),
            "times": times,
        }

    def _decode(self, contestant: Contestant, requests: list[Request]) -> tuple[float, list[int]]:
        """Seconds of one step in which all requests decode, and everybody's first token."""
        num_steps, engine, runner = self._case.num_steps, self._rig.engine, self._rig.runner
        self._switch.current, runner.uses_graphs = contestant.layout, contestant.uses_graphs
        first: dict[str, int] = {}
        for request in requests:
            adapters = request.adapters if contestant.has_adapters else ()
            named = Request(request.id, request.prompt, adapters, contestant.preset)
            engine.add(make_sequence(named, self._new_tokens))
        while len(first) < len(requests):
            self._step(first)
        for _ in range(WARM_UP_STEPS):
            self._step(first)
        start_s = clock(self._device)
        for _ in range(num_steps):
            self._step(first)
        seconds = (clock(self._device) - start_s) / num_steps
        for request in requests:
            engine.cancel(request.id)
        return seconds, [first[request.id] for request in requests]

    def _step(self, first: dict[str, int]) -> None:
        for update in self._rig.engine.step():
            if update.error is not None or update.sampled is None:
                raise Internal(f"request {update.sequence.id} failed: {update.error}")
            first.setdefault(update.sequence.id, update.sampled.token)


def run_step_case(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Measures one base. `over_base` is the time of a step over that of the bare base with the same graphs."""
    return StepBench(case, device).run()
