"""Device: the keys and values of all sequences, in blocks of `BLOCK` tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ramole.executor.block_pool import BLOCK, NULL, SINK
from ramole.mixture.memory import zeros


class KvBlocks:
    """`keys[layer]` and `values[layer]`: [blocks, BLOCK, H_kv, D]; token by token they are [blocks * BLOCK, H_kv, D].

    Attention that gathers blocks reads the ends of rows that are shorter than the longest, and a mask hides them. It
    hides numbers, not NaN (0 * NaN is NaN), nor keys so large that their score overflows. Therefore a block holds zeros
    wherever its present sequence has not written: `wipe` it when nobody keeps it any more.

    Attributes:
        num_blocks: that sequences can have; there are two more, see block_pool.py.
        max_len: tokens of the longest sequence.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        num_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.max_len = max_len
        size = (num_layers, 2, num_blocks + 1 + max(NULL, SINK), BLOCK, num_heads, head_dim)
        self._all = zeros(size, dtype=dtype, device=device)
        self.keys = [self._all[layer, 0] for layer in range(num_layers)]
        self.values = [self._all[layer, 1] for layer in range(num_layers)]

    @property
    def bytes_per_token(self) -> int:
        """Of all layers."""
        return self._all[:, :, 0, 0].numel() * self._all.element_size()

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zeroes blocks."""
        # Flat, a block is one run of memory: twice as fast.
        self._all.flatten(0, 1).flatten(2).index_fill_(1, torch.tensor(blocks, device=self._all.device), 0)
