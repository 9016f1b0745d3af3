"""Memory: the keys and values of all running sequences, one contiguous row each."""

from __future__ import annotations

import numpy as np
import torch

from ramole.mixture.memory import zeros


class KvRows:
    """`keys[layer]` and `values[layer]`: [rows, H_kv, L, D]. A row belongs to one sequence until it finishes.

    `lengths` [rows], on the host, is where the next token of each row goes; 0 in a free row.

    Attention reads all rows of a batch as far as the longest, and a mask hides the rest. It hides numbers, not NaN
    (0 * NaN is NaN), nor keys so large that their score overflows. Therefore a row holds zeros wherever its present
    sequence has not written: `wipe` it when the sequence leaves. (A decode step as a CUDA graph also writes at
    `lengths` of rows that do not take part. Their own next token overwrites that before anybody reads it.)

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
        self.max_len = max_len
        self.lengths = np.zeros(num_rows, np.int64)
        self._all = zeros((num_layers, 2, num_rows, num_heads, max_len, head_dim), dtype=dtype, device=device)
        self.keys = [self._all[layer, 0] for layer in range(num_layers)]
        self.values = [self._all[layer, 1] for layer in range(num_layers)]

    def wipe(self, row: int) -> None:
        """Zeroes what the row's sequence has written."""
        self._all[:, :, row, :, : int(self.lengths[row]) + 1] = 0
        self.lengths[row] = 0
