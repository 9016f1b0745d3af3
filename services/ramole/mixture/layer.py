"""One wrapped module: the frozen base layer, the slots of all resident adapters at this place, and its router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from torch import nn

from ramole.lora.weights import LoraPair
from ramole.mixture.native import NativeModule
from ramole.mixture.step import StepContext


@dataclass(frozen=True, slots=True)
class SlotShape:
    """Sizes shared by every wrapped module: S slots (slot 0 stays empty), slot rank R, router rank Q."""

    num_slots: int
    slot_rank: int
    router_rank: int


class MixtureLinear(nn.Module):
    """y = base(x) + the mixture of the step's experts. Does nothing but the base when no step is running.

    Tensors: `lora_a` [S, R, d], `lora_b` [S, R, o], `c` [S, Q, R]; router: `router_a` [Q, d], `router_b` [o, Q].
    Ranks below R are padded with zero rows, which add nothing. `ranks` [S], on the host, holds the rank in each slot,
    0 where it is empty; `device_ranks` is its copy beside the tensors. `native` is where the CPU's kernel finds all
    this; None where it cannot read it.
    """

    lora_a: torch.Tensor
    lora_b: torch.Tensor
    c: torch.Tensor
    device_ranks: torch.Tensor

    def __init__(
        self,
        base: nn.Module,
        *,
        index: int,
        widths: tuple[int, int],
        shape: SlotShape,
        context: StepContext,
    ) -> None:
        """Wraps `base`, a module of widths (d, o). `index` is its number among the wrapped modules."""
        super().__init__()
        weight = cast(torch.Tensor, base.weight)
        (d, o), (num_slots, rank, q) = widths, (shape.num_slots, shape.slot_rank, shape.router_rank)
        self.base = base
        self.index = index
        self._context = context

        floating = _floating(weight.dtype)

        def zeros(*size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=floating, device=weight.device)

        self.register_buffer("lora_a", zeros(num_slots, rank, d), persistent=False)
        self.register_buffer("lora_b", zeros(num_slots, rank, o), persistent=False)
        self.register_buffer("c", zeros(num_slots, q, rank), persistent=False)
        self.router_a = nn.Parameter(zeros(q, d), requires_grad=False)
        self.router_b = nn.Parameter(zeros(o, q), requires_grad=False)
        self.ranks = np.zeros(num_slots, np.int64)
        self.register_buffer("device_ranks", torch.zeros(num_slots, dtype=torch.int32, device=weight.device), False)
        self.native = self._native()

    @property
    def weight(self) -> torch.Tensor:
        """The base weight: model code asks its projections for dtype and device."""
        return cast(torch.Tensor, self.base.weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """The base bias."""
        return cast("torch.Tensor | None", getattr(self.base, "bias", None))

    @torch.no_grad()
    def write(self, slot: int, pair: LoraPair) -> None:
        """Puts one adapter's pair into a slot, replacing what was there."""
        self.clear(slot)
        self.lora_a[slot, : pair.rank] = pair.a
        self.lora_b[slot, : pair.rank] = pair.b.T
        self.c[slot] = self._couple(self.lora_b[slot])
        self._set_rank(slot, pair.rank)

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        """Zeroes a slot: what is not in use must not be able to leak."""
        for tensor in (self.lora_a, self.lora_b, self.c):
            tensor[slot] = 0
        self._set_rank(slot, 0)

    @torch.no_grad()
    def set_router(self, pair: LoraPair) -> None:
        """Replaces the router of this module and every C made from it."""
        self.router_a.copy_(pair.a)
        self.router_b.copy_(pair.b)
        self.c.copy_(self._couple(self.lora_b))

    def coupling(self, slots: torch.Tensor) -> torch.Tensor:
        """C = B_r^T B of some slots, [..., Q, R]; computed anew while the router is being trained."""
        return self._couple(self.lora_b[slots]) if self.router_b.requires_grad else self.c[slots]

    def _set_rank(self, slot: int, rank: int) -> None:
        self.ranks[slot] = rank
        self.device_ranks[slot] = rank

    def _couple(self, lora_b: torch.Tensor) -> torch.Tensor:
        # Float32 whatever the storage: C multiplies two rounded factors already.
        return torch.einsum("oq,...ro->...qr", self.router_b.float(), lora_b.float()).to(lora_b.dtype)

    def _native(self) -> NativeModule | None:
        tensors = (self.lora_a, self.lora_b, self.c, self.router_a)
        return NativeModule(*tensors, self.ranks, self.index) if NativeModule.fits(*tensors) else None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moving or converting a module replaces its tensors: their addresses change."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.native = self._native()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., d] -> [..., o]; the leading axes are the T packed tokens of the running step, or their last ones."""
        y = cast(torch.Tensor, self.base(x))
        step = self._context.step
        if step is None:
            return y
        step.form_for(x.numel() // x.shape[-1]).add(x, y, self)
        return y


def _floating(dtype: torch.dtype) -> torch.dtype:
    # A quantised base stores integers; its adapters do not.
    return dtype if dtype.is_floating_point else torch.float32
