"""The mixture of one model: all its wrapped modules, written and cleared together, run one step at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ramole.core.errors import LimitExceeded, WrongState
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.layer import MixtureLinear
from ramole.mixture.plan import NO_SLOT, BoolArray, StepPlan
from ramole.mixture.slots import ModuleSlots, SlotShape
from ramole.mixture.step import Layout, Step, StepContext
from ramole.mixture.surgery import find_module, replace_module, widths_of
from ramole.mixture.torch_form import torch_layout

_LAYER = re.compile(r"\.(\d+)\.")


class Mixture:
    """Owns the wrapped modules of `model`. A module is wrapped when the first adapter (or `wrap`) names it."""

    def __init__(
        self, model: nn.Module, shape: SlotShape, router: AdapterWeights | None = None, layout: Layout | None = None
    ) -> None:
        """
        Args:
            model: the frozen base model, changed in place as modules are wrapped.
            shape: sizes of the slots.
            router: the RouterLoRA as (A_r, B_r) pairs; modules without a pair weigh uniformly.
            layout: the compute form, see `dispatch.layout_for`; None = torch operations.

        Raises:
            WrongState: the router does not fit the model or `shape`.
        """
        self.shape = shape
        self.modules: dict[str, ModuleSlots] = {}
        self._model = model
        self._context = StepContext()
        self._router = router
        self._layout = layout or torch_layout(next(model.parameters()).device)
        # Whatever is quantised, the embeddings are not, and they make the activations.
        self._dtype = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)
        self._layers: list[int | None] = []
        self._belongs = np.zeros((1, 0))  # [L + 1, modules]: which layer each module is in
        self._touches = np.zeros((0, shape.num_slots), np.bool_)  # [modules, S]: whether the slot's adapter is there
        self._head = _output_head(model)
        if router is not None:
            self._check_router(router)

    @property
    def has_router(self) -> bool:
        """Whether a RouterLoRA is loaded."""
        return self._router is not None

    def wrap(self, name: str) -> ModuleSlots:
        """Wraps the module called `name`, once; its slots. Raises WrongState when it cannot carry adapters."""
        if name not in self.modules:
            base = find_module(self._model, name)
            module = MixtureLinear(
                base,
                index=len(self.modules),
                widths=widths_of(base, name),
                shape=self.shape,
                context=self._context,
                dtype=self._dtype,
            )
            if self._router is not None and name in self._router.pairs:
                module.slots.set_router(self._router.pairs[name])
            replace_module(self._model, name, module)
            self.modules[name] = module.slots
            self._layers.append(_layer_of(name))
            self._belongs = _belongs(self._layers)
            self._touches = np.vstack([self._touches, np.zeros((1, self.shape.num_slots), np.bool_)])
        return self.modules[name]

    def check(self, weights: AdapterWeights) -> None:
        """Raises WrongState or LimitExceeded when an adapter does not fit; touches nothing."""
        for name, pair in weights.pairs.items():
            d, o = self._widths(name)
            if pair.a.shape[1] != d or pair.b.shape[0] != o:
                raise WrongState(f"{name}: the adapter is {pair.a.shape[1]} -> {pair.b.shape[0]}, the base {d} -> {o}")
            if pair.rank > self.shape.slot_rank:
                raise LimitExceeded(
                    f"{name}: rank {pair.rank} does not fit a slot of rank {self.shape.slot_rank}",
                    field="executor.slot_rank",
                    remedy="raise the setting or train the adapter with a lower rank",
                )

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Puts an adapter into a slot of every module it touches, and clears that slot in all others.

        All checks come first: a failure leaves the slot as it was.
        """
        if not NO_SLOT < slot < self.shape.num_slots:
            raise ValueError(f"slot {slot} is not in 1..{self.shape.num_slots - 1}")
        self.check(weights)
        for name in weights.pairs:
            self.wrap(name)
        for name, module in self.modules.items():
            if name in weights.pairs:
                module.write(slot, weights.pairs[name])
            else:
                module.clear(slot)
        self._touches[:, slot] = [name in weights.pairs for name in self.modules]

    def clear(self, slot: int) -> None:
        """Empties a slot everywhere."""
        for module in self.modules.values():
            module.clear(slot)
        self._touches[:, slot] = False

    @contextmanager
    def running(self, plan: StepPlan) -> Iterator[Step | None]:
        """Makes the next forward of the model compute `plan`. Yields the step, or None when nobody uses adapters."""
        step = self.step(plan) if plan.num_adapters else None
        with self.running_step(step):
            yield step

    @contextmanager
    def running_step(self, step: Step | None) -> Iterator[None]:
        """The same for a step that was laid out before."""
        with self._context.running(step):
            yield

    def step(self, plan: StepPlan) -> Step:
        """Lays a plan out for the form that this mixture computes with."""
        has_head = self._head in self.modules and plan.num_tokens != plan.num_requests
        head = self._layout(plan.last_tokens(), len(self.modules)) if has_head else None
        return Step(plan, self._layout(plan, len(self.modules)), head)

    def usage(self, step: Step) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """What the experts of a step that has run really got.

        Returns:
            Sums over tokens and modules of the weights, by transformer layer: [L, b, k], and the number of terms
            behind them, [L, b]: tokens x modules that at least one expert of the request touches. Modules outside
            the layers (an output head) count as a last layer of their own.
        """
        plan = step.plan
        touched: BoolArray = np.any(self._touches[:, plan.slots], -1)
        usage, counts = step.form.usage(), touched * np.array(plan.lengths)
        if step.head is not None and self._head is not None:
            head, usage = self.modules[self._head].index, usage.copy()
            usage[head], counts[head] = step.head.usage()[head], touched[head]
        used = np.where(touched[..., None], usage, 0)
        with np.errstate(invalid="ignore", over="ignore"):  # of a request that has overflowed: its own column only
            weights = (self._belongs @ used.reshape(len(used), -1)).reshape(-1, *plan.slots.shape)
        return weights, self._belongs @ counts

    def set_router(self, router: AdapterWeights) -> None:
        """Replaces the RouterLoRA everywhere; modules without a pair weigh uniformly. Call between steps only.

        Raises:
            WrongState: it does not fit the model or the router rank.
        """
        self._check_router(router)
        self._router = router
        for name, module in self.modules.items():
            blank = LoraPair(torch.zeros_like(module.router_a), torch.zeros_like(module.router_b))
            module.set_router(router.pairs.get(name, blank))

    def _widths(self, name: str) -> tuple[int, int]:
        known = self.modules.get(name)
        return known.widths if known else widths_of(find_module(self._model, name), name)

    def _check_router(self, router: AdapterWeights) -> None:
        for name, pair in router.pairs.items():
            d, o = self._widths(name)
            if pair.a.shape != (self.shape.router_rank, d) or pair.b.shape != (o, self.shape.router_rank):
                raise WrongState(
                    f"the router's pair for {name} is {tuple(pair.a.shape)}, {tuple(pair.b.shape)}",
                    field="executor.router",
                    remedy=f"train it for this base model with rank {self.shape.router_rank}",
                )

    def trainable_router(self) -> list[torch.nn.Parameter]:
        """Switches the routers of all wrapped modules to training and returns their parameters (A_r, B_r, ...)."""
        parameters = [p for module in self.modules.values() for p in (module.router_a, module.router_b)]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters


def _output_head(model: nn.Module) -> str | None:
    """Name of the module that makes the logits, if the model tells."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    return next((name for name, module in model.named_modules() if module is head), None) if head is not None else None


def _belongs(layers: list[int | None]) -> npt.NDArray[np.float64]:
    """1 where module j is in layer i; the last row is for modules outside the layers."""
    num_layers = max((layer for layer in layers if layer is not None), default=-1) + 1
    out = np.zeros((num_layers + 1, len(layers)))
    out[[num_layers if layer is None else layer for layer in layers], range(len(layers))] = 1
    return out


def _layer_of(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found[1]) if found else None
