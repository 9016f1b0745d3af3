"""Room for tensors that are written later, or never."""

from __future__ import annotations

import math
import mmap

import torch


def zeros(size: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As `torch.zeros`; on a CPU a page takes memory once it is written. `torch.zeros` writes all of it at once."""
    num_bytes = math.prod(size) * dtype.itemsize
    if device.type != "cpu" or num_bytes < mmap.PAGESIZE:
        return torch.zeros(size, dtype=dtype, device=device)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(size)
