"""One step on its way through the model: the plan, laid out for one compute form, and how the layers find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ramole.mixture.plan import FloatArray, StepPlan

if TYPE_CHECKING:
    from ramole.mixture.layer import MixtureLinear


class Form(Protocol):
    """One way to compute the mixture, holding one plan in the shape that it needs."""

    def add(self, x: torch.Tensor, y: torch.Tensor, module: MixtureLinear) -> None:
        """Adds the whole step's update of one module to y [T, o], in place, from x [T, d]."""

    def usage(self) -> FloatArray:
        """What the experts got in the modules that have run, summed over the tokens of each request: [modules, b, k].

        Requests whose experts do not touch a module hold anything there.
        """


Layout = Callable[[StepPlan, int], Form]
"""(plan, number of wrapped modules) -> the form that computes it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A plan and the form that was chosen for it, once for all modules."""

    plan: StepPlan
    form: Form


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
