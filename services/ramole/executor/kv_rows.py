"""Memory: the keys and values of all running sequences, one contiguous row each."""

from __future__ import annotations

import numpy as np
import torch


class KvRows:
    """`keys[layer]` and `values[layer]`: [rows, H_kv, L, D]. A row belongs to one sequence until it finishes.

    `lengths` [rows], on the host, is where the next token of each row goes; of a free row it means nothing.

    Rows are reserved for the longest allowed sequence, so that a running sequence can never run out of memory.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_rows: int,
        num_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_rows, num_heads, max_len, head_dim)
        self.max_len = max_len
        self.lengths = np.zeros(num_rows, np.int64)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
