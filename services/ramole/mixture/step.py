"""One step on its way through the model: the plan, laid out for one compute form, and how the layers find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from ramole.mixture.plan import FloatArray, StepPlan
from ramole.mixture.slots import ModuleSlots


class Form(Protocol):
    """One way to compute the mixture, holding one plan in the shape that it needs."""

    @property
    def sums_steps(self) -> bool:
        """Whether the same plan may run again, `usage` then being the sum over all runs; False = over the last one."""

    @property
    def num_tokens(self) -> int:
        """Rows that `add` takes: the plan's tokens, or more where a form is padded to a fixed size."""

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """Adds the whole step's update of one module to y [..., o], in place, from x [..., d].

        The leading axes are the T packed tokens; y is contiguous. Views cost as much as a small kernel: who needs two
        axes makes them (`packed`).
        """

    def usage(self) -> FloatArray:
        """What the experts got in the modules that have run, summed over the tokens of each request: [modules, b, k].

        Requests whose experts do not touch a module hold anything there.
        """


def packed(tensor: torch.Tensor) -> torch.Tensor:
    """[..., n] -> [T, n], without a copy where that can be."""
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])


Layout = Callable[[StepPlan, int], Form]
"""(plan, number of wrapped modules) -> the form that computes it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A plan and the form that was chosen for it, once for all modules.

    `head` computes the output head, which sees only the last token of each request; None where it sees what all others
    see, or carries no adapter.
    """

    plan: StepPlan
    form: Form
    head: Form | None = None

    def form_for(self, num_rows: int) -> Form:
        """Whichever takes `num_rows` rows."""
        for form in (self.form, self.head):
            if form is not None and form.num_tokens == num_rows:
                return form
        raise RuntimeError(f"{num_rows} tokens reached a module, the plan has {self.form.num_tokens}")


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
