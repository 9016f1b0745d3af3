"""The step plan on the device, and the place where the layers of a model find it during a forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ramole.mixture.native import NativeStep
from ramole.mixture.plan import StepPlan


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """What the mixture maths needs to know about the experts of n token rows. Shapes [n, k], flags [n, 1].

    n is 1 for a segment: all tokens of one request share their row.
    """

    slots: torch.Tensor
    logits: torch.Tensor
    weights: torch.Tensor
    scales: torch.Tensor
    is_expert: torch.Tensor
    is_routed: torch.Tensor
    is_explicit: torch.Tensor
    merges_parameters: torch.Tensor

    def __getitem__(self, rows: slice) -> ExpertRows:
        """The same for some of the rows."""
        return ExpertRows(
            self.slots[rows],
            self.logits[rows],
            self.weights[rows],
            self.scales[rows],
            self.is_expert[rows],
            self.is_routed[rows],
            self.is_explicit[rows],
            self.merges_parameters[rows],
        )


@dataclass(slots=True)
class Step:
    """One plan as tensors, made once and read by every wrapped module.

    Attributes:
        plan: the ints it was made from.
        rows: one row for each request, [b, k].
        decode_adapters: slots of the unique adapters of the decode rows, [p_decode].
        decode_columns: index into `decode_adapters` for each decode row and expert, [num_decode, k].
        decode_is_routed: whether the router must run for decode rows.
        segments: first and one-past-last token of each request.
        usage: the weights that the experts got, summed over the tokens of each request:
            module index -> [b, k], filled by the torch forms during the forward.
        native: the same plan for the kernel; None where there is none. It keeps a usage of its own.
    """

    plan: StepPlan
    rows: ExpertRows
    decode_adapters: torch.Tensor
    decode_columns: torch.Tensor
    decode_is_routed: bool
    segments: list[tuple[int, int]]
    usage: dict[int, torch.Tensor] = field(default_factory=dict)
    native: NativeStep | None = None

    @classmethod
    def build(cls, plan: StepPlan, device: torch.device) -> Step:
        """Copies a plan to the device."""
        slots = torch.from_numpy(plan.slots)
        adapters, columns = torch.unique(slots[: plan.num_decode], return_inverse=True)
        rows = ExpertRows(
            slots=slots.to(device),
            logits=torch.from_numpy(plan.logits).to(device),
            weights=torch.from_numpy(plan.weights).to(device),
            scales=torch.from_numpy(plan.scales).to(device),
            is_expert=(slots != 0).to(device),
            is_routed=torch.from_numpy(plan.is_routed)[:, None].to(device),
            is_explicit=torch.from_numpy(plan.is_explicit)[:, None].to(device),
            merges_parameters=torch.from_numpy(plan.merges_parameters)[:, None].to(device),
        )
        return cls(
            plan=plan,
            rows=rows,
            decode_adapters=adapters.to(device),
            decode_columns=columns.to(device),
            decode_is_routed=bool(plan.is_routed[: plan.num_decode].any()),
            segments=plan.segments,
        )

    def record(self, module: int, first: int, weights: torch.Tensor) -> None:
        """Adds `weights` [n, k] of the requests first..first+n to the usage of a module."""
        total = self.usage.get(module)
        if total is None:
            total = self.usage[module] = torch.zeros_like(self.rows.logits)
        total[first : first + weights.shape[0]] += weights.detach()


class StepContext:
    """Hands the active step to the layers without changing any `forward` signature. One per wrapped model."""

    def __init__(self) -> None:
        self.step: Step | None = None

    @contextmanager
    def running(self, step: Step | None) -> Iterator[Step | None]:
        """Makes `step` active; None runs the bare base model. Steps do not nest."""
        if self.step is not None:
            raise RuntimeError("a step is already running on this model")
        self.step = step
        try:
            yield step
        finally:
            self.step = None
