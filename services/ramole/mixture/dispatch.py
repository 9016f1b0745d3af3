"""Which form computes the mixture: decided here, once for a model, and nowhere else."""

from __future__ import annotations

import torch

from ramole.mixture.native import load_kernel, native_layout
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Layout
from ramole.mixture.torch_form import torch_layout


def layout_for(device: torch.device, dtype: torch.dtype, shape: SlotShape) -> Layout:
    """The fastest form that works for slots of `shape` on this device; compiles what it needs, so call it at start."""
    if device.type == "cuda":
        from ramole.mixture.triton_form import triton_layout

        return triton_layout(device, shape)
    if device.type == "cpu" and dtype is torch.float32 and (kernel := load_kernel()) is not None:
        return native_layout(kernel, shape)
    return torch_layout(device)
