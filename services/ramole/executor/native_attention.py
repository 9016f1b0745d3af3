"""Decode attention on the CPU: one call of machine code a layer, over each sequence's own blocks and true length.

Torch operations would copy the blocks of all sequences side by side in every layer, or read rows as far as the longest.
Here nothing is copied, and what a sequence sees does not depend on what else is in the batch, to the bit. Float32 only.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable

import numpy as np
import torch

from ramole.executor.attention import DecodeForm, Scores
from ramole.executor.block_pool import BLOCK
from ramole.executor.block_tables import BlockTables
from ramole.executor.kv_blocks import KvBlocks
from ramole.mixture.machine_code import machine_code

Kernel = Callable[..., None]

_log = logging.getLogger(__name__)


@functools.cache
def load_kernel() -> Kernel | None:
    """Compiles `native_attention_kernel.attend`; None when numba does not work here."""
    tensor = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    numbers = [ctypes.c_float, ctypes.c_float, ctypes.c_int64]
    argtypes = [ctypes.c_void_p] * 3 + 3 * tensor + [ctypes.c_void_p] + numbers
    try:
        from ramole.executor import native_attention_kernel as source

        return machine_code(source.attend, source.SIGNATURE, source.FASTMATH, argtypes)
    except ImportError as error:
        _log.warning("no native kernel, attention runs on torch operations: %s", error)
        return None


class NativeDecode:
    """One step as the kernel reads it. `tables` must not change while it is in use."""

    def __init__(self, kernel: Kernel, kv: KvBlocks, tables: BlockTables) -> None:
        self._kernel = kernel
        self._kv = kv
        self._tables = tables
        self._step: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def num_tokens(self) -> int:
        """See `DecodeForm`."""
        return len(self._tables.positions)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scores: Scores
    ) -> None:
        """See `DecodeForm`."""
        q, k, v = (each if each.stride(2) == 1 else each.contiguous() for each in (q, k, v))
        self._kernel(
            self._address(q.shape[1], k.shape[1], q.shape[2]),
            self._kv.keys[layer].data_ptr(),
            self._kv.values[layer].data_ptr(),
            q.data_ptr(),
            *q.stride()[:2],
            k.data_ptr(),
            *k.stride()[:2],
            v.data_ptr(),
            *v.stride()[:2],
            out.data_ptr(),
            scores.scale,
            scores.softcap or 0.0,
            scores.window or 0,
        )

    def _address(self, num_heads: int, num_kv_heads: int, head_dim: int) -> int:
        """Of the table that describes the step; layers have the same heads, so it is filled once."""
        if self._step is None:
            array, positions = self._tables.array, self._tables.positions
            width = array.shape[1]
            scratch = np.empty(num_heads * width * BLOCK, np.float32)
            addresses = (each.ctypes.data for each in (array, positions, scratch))
            table = np.array([*addresses, width, num_heads, num_kv_heads, head_dim, 0, len(positions)], np.int64)
            self._step = table.ctypes.data, table, scratch
        return self._step[0]


def native_decode(kv: KvBlocks) -> Callable[[BlockTables], DecodeForm] | None:
    """What lays a step out for the kernel, or None where there is no kernel for these blocks."""
    is_fit = kv.keys[0].device.type == "cpu" and kv.keys[0].dtype is torch.float32
    kernel = load_kernel() if is_fit else None
    return None if kernel is None else lambda tables: NativeDecode(kernel, kv, tables)
