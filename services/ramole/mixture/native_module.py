"""Where the tensors of one module lie, as machine code reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ramole.mixture.plan import IntArray


class NativeModule:
    """A table of addresses. Holds the tensors, so that it stays valid."""

    def __init__(
        self,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        c: torch.Tensor,
        router_a: torch.Tensor,
        ranks: IntArray,
        index: int,
    ) -> None:
        """Shapes as in `ModuleSlots`; float32, contiguous, on the CPU (see `fits`)."""
        self._owned = (lora_a, lora_b, c, router_a, ranks, index)
        (_, slot_rank, d), o, router_rank = lora_a.shape, lora_b.shape[2], router_a.shape[0]
        tensors = (lora_a, lora_b, c, router_a)
        self._table = np.array(
            [*(t.data_ptr() for t in tensors), ranks.ctypes.data, d, o, slot_rank, router_rank, index], np.int64
        )
        self.address = self._table.ctypes.data

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of a model has its own tensors, thus its own addresses.
        return NativeModule, self._owned

    @staticmethod
    def fits(*tensors: torch.Tensor) -> bool:
        """Whether machine code can read these tensors in place."""
        return all(t.dtype is torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
