"""Decode attention on the CPU: one call of machine code a layer, over each sequence's own blocks and true length.

Torch operations would copy the blocks of all sequences side by side in every layer, or read rows as far as the longest.
Here nothing is copied, and what a sequence sees does not depend on what else is in the batch, to the bit. Float32 only.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

from ramole.executor.attention import DecodeForm, Scores
from ramole.executor.block_pool import BLOCK
from ramole.executor.block_tables import BlockTables
from ramole.executor.kv_blocks import KvBlocks
from ramole.mixture.machine_code import machine_code

Kernel = Callable[..., None]

_MIN_SHARED_BYTES = 2 * 2**20
"""Keys and values that a layer reads, some 200 us of one core: below that threads cost more than they help."""

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
    """One step as the kernel reads it. `tables` must not change while it is in use.

    Args:
        threads: beside the caller's, which compute a share of the sequences of a large step; None = there are none.
        num_threads: with the caller's.
    """

    def __init__(
        self, kernel: Kernel, kv: KvBlocks, tables: BlockTables, threads: Executor | None, num_threads: int
    ) -> None:
        self._kernel = kernel
        self._kv = kv
        self._tables = tables
        self._threads = threads
        self._num_threads = num_threads
        self._owned: list[np.ndarray] = []
        self._shares: list[int] = []

    @property
    def num_tokens(self) -> int:
        """See `DecodeForm`."""
        return len(self._tables.positions)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scores: Scores
    ) -> None:
        """See `DecodeForm`."""
        q, k, v = (each if each.stride(2) == 1 else each.contiguous() for each in (q, k, v))
        arguments = (
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
        if not self._shares:  # layers have the same heads
            self._share_out(q.shape[1], k.shape[1], q.shape[2])
        mine, *others = self._shares
        if self._threads is None:
            self._kernel(mine, *arguments)
            return
        running = [self._threads.submit(self._kernel, share, *arguments) for share in others]
        self._kernel(mine, *arguments)
        for each in running:
            each.result()

    def _share_out(self, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Makes the tables that describe the step, one for each thread that computes."""
        array, positions = self._tables.array, self._tables.positions
        read = np.cumsum(positions + 1)
        is_large = 8 * read[-1] * num_kv_heads * head_dim >= _MIN_SHARED_BYTES
        num_shares = min(self._num_threads, len(positions)) if is_large else 1
        bounds = np.searchsorted(read, read[-1] * np.arange(1, num_shares) / num_shares).tolist()
        for first, stop in pairwise([0, *bounds, len(positions)]):
            scratch = np.empty(num_heads * array.shape[1] * BLOCK, np.float32)
            addresses = (each.ctypes.data for each in (array, positions, scratch))
            table = np.array([*addresses, array.shape[1], num_heads, num_kv_heads, head_dim, first, stop], np.int64)
            self._owned += [scratch, table]
            self._shares.append(table.ctypes.data)


def native_decode(kv: KvBlocks, num_threads: int) -> Callable[[BlockTables], DecodeForm] | None:
    """What lays a step out for the kernel, or None where there is no kernel for these blocks."""
    is_fit = kv.keys[0].device.type == "cpu" and kv.keys[0].dtype is torch.float32
    kernel = load_kernel() if is_fit else None
    if kernel is None:
        return None
    threads = ThreadPoolExecutor(num_threads - 1, thread_name_prefix="attention") if num_threads > 1 else None
    return lambda tables: NativeDecode(kernel, kv, tables, threads, num_threads)
