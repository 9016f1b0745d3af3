"""What the compute forms read of one wrapped module: the slots of all resident adapters at this place, its router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from ramole.lora.weights import LoraPair
from ramole.mixture.memory import zeros
from ramole.mixture.native_module import NativeModule


@dataclass(frozen=True, slots=True)
class SlotShape:
    """Sizes shared by every wrapped module: S slots (slot 0 stays empty), slot rank R, router rank Q."""

    num_slots: int
    slot_rank: int
    router_rank: int


class ModuleSlots(nn.Module):
    """The tensors of one module of widths (d, o), the `index`-th that was wrapped.

    `lora_a` [S, R, d], `lora_b` [S, R, o], `c` [S, Q, R]; router: `router_a` [Q, d], `router_b` [o, Q]. Ranks below R
    are padded with zero rows, which add nothing. `ranks` [S], on the host, holds the rank in each slot, 0 where it is
    empty; `device_ranks` is its copy beside the tensors. `native` is where the CPU's kernel finds all this; None where
    it cannot read it.
    """

    lora_a: torch.Tensor
    lora_b: torch.Tensor
    c: torch.Tensor
    device_ranks: torch.Tensor

    def __init__(
        self, index: int, widths: tuple[int, int], shape: SlotShape, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        (d, o), (num_slots, rank, q) = widths, (shape.num_slots, shape.slot_rank, shape.router_rank)

        def room(*size: int) -> torch.Tensor:
            return zeros(size, dtype=dtype, device=device)

        self.index = index
        self.widths = widths
        self.register_buffer("lora_a", room(num_slots, rank, d), persistent=False)
        self.register_buffer("lora_b", room(num_slots, rank, o), persistent=False)
        self.register_buffer("c", room(num_slots, q, rank), persistent=False)
        self.router_a = nn.Parameter(room(q, d), requires_grad=False)
        self.router_b = nn.Parameter(room(o, q), requires_grad=False)
        self.ranks = np.zeros(num_slots, np.int64)
        self.register_buffer("device_ranks", torch.zeros(num_slots, dtype=torch.int32, device=device), False)
        self.native = self._native()

    @torch.no_grad()
    def write(self, slot: int, pair: LoraPair) -> None:
        """Puts one adapter's pair into a slot, replacing what was there."""
        self.clear(slot)
        self._set_rank(slot, pair.rank)  # first: should a copy fail, the next `clear` knows how far it came
        self.lora_a[slot, : pair.rank] = pair.a
        self.lora_b[slot, : pair.rank] = pair.b.T
        self.c[slot, :, : pair.rank] = self._couple(self.lora_b[slot, : pair.rank])

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        """Zeroes a slot: what is not in use must not be able to leak."""
        rank = self.ranks[slot]  # beyond it there are zeros already, of which most were never written
        self.lora_a[slot, :rank] = 0
        self.lora_b[slot, :rank] = 0
        self.c[slot, :, :rank] = 0
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
