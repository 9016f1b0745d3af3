"""The native form: one call of machine code computes the whole update of one module for the short segments of a step.

The torch forms issue a dozen operations for each module and step, which at decode cost more than their arithmetic.
Here a module and a step are described once, as tables of addresses, and a call passes two tables and two tensors.
Each token reads its own experts' slots and only the rows that their ranks fill, so its result does not depend on what
else is in the batch, to the bit. Float32 on the CPU; numba compiles the code (`native_kernel`) when an engine starts.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable

import numpy as np
import torch

from ramole.mixture.machine_code import machine_code
from ramole.mixture.native_module import NativeModule
from ramole.mixture.plan import FloatArray, IntArray, StepPlan
from ramole.mixture.slots import ModuleSlots, SlotShape
from ramole.mixture.step import Layout, packed
from ramole.mixture.torch_form import TorchForm

Kernel = Callable[[int, int, int, int, int], None]

_log = logging.getLogger(__name__)


@functools.cache
def load_kernel() -> Kernel | None:
    """Compiles the kernel, or loads it from numba's cache on disk. Takes seconds the first time: call it at start.

    Returns:
        `native_kernel.add_rows` over addresses, or None when numba does not work here.
    """
    try:
        from ramole.mixture import native_kernel as source

        return machine_code(source.add_rows, source.SIGNATURE, source.FASTMATH, [ctypes.c_void_p] * 5)
    except ImportError as error:
        _log.warning("no native kernel, the mixture runs on torch operations: %s", error)
        return None


def max_segment_tokens(num_threads: int) -> int:
    """The longest segment that the kernel computes; longer ones are faster as two GEMMs.

    With one torch thread the kernel is still 1.3 times faster and more at 256 tokens, at hidden 512 to 2048, k = 3,
    r = 16. It runs on one core and a GEMM on all, hence less with more threads: an estimate beyond two.
    """
    return min(256, max(8, 512 // num_threads))


class NativeForm:
    """One step as the kernel reads it; what the kernel cannot take goes to a `TorchForm`, made when it is needed."""

    sums_steps = True

    def __init__(self, kernel: Kernel, plan: StepPlan, num_modules: int, scratch: IntArray) -> None:
        """Lays a plan out; segments of up to `max_segment_tokens` are the kernel's.

        `scratch` is the kernel's: large enough for this plan, used by one form at a time.
        """
        b, k = plan.slots.shape
        lengths = np.array(plan.lengths, np.int64)
        is_short = lengths <= max_segment_tokens(torch.get_num_threads())
        uses_any = (plan.slots != 0).any(1)
        self.others: list[int] = np.flatnonzero(uses_any & ~is_short).tolist()
        self._kernel = kernel
        self._plan = plan
        self._torch: TorchForm | None = None
        self._usage: FloatArray = np.zeros((num_modules, b, k), np.float32)
        self._scratch = scratch
        requests = np.flatnonzero(uses_any & is_short)
        flags = np.empty((b, 2), np.int64)
        flags[:, 0], flags[:, 1] = plan.is_routed, plan.merges_parameters
        starts = np.zeros(b + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        self._owned = (requests, starts, plan.slots, flags, plan.gates, plan.scales, self._usage)
        self._table = np.array([*(array.ctypes.data for array in self._owned), b, k, len(requests)], np.int64)
        self._addresses = self._table.ctypes.data, self._scratch.ctypes.data

    @property
    def num_tokens(self) -> int:
        """See `Form`."""
        return self._plan.num_tokens

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """See `Form`."""
        is_training = torch.is_grad_enabled() and (module.router_a.requires_grad or y.requires_grad)
        if is_training or module.native is None or not _fit(x, y):
            self._rest(x.device).add(x, y, module)
            return
        self.add_short(x, y, module.native)
        if self.others:
            self._rest(x.device).add_segments(packed(x), packed(y), module, self.others)

    def add_short(self, x: torch.Tensor, y: torch.Tensor, module: NativeModule) -> None:
        """The kernel's share: the short segments. x and y must fit it."""
        step, scratch = self._addresses
        self._kernel(module.address, step, x.data_ptr(), y.data_ptr(), scratch)

    def usage(self) -> FloatArray:
        """See `Form`."""
        return self._usage if self._torch is None else self._usage + self._torch.usage()

    def _rest(self, device: torch.device) -> TorchForm:
        if self._torch is None:
            self._torch = TorchForm(self._plan, len(self._usage), device)
        return self._torch


def _fit(x: torch.Tensor, y: torch.Tensor) -> bool:
    # They lie where the module's tensors lie: on the CPU.
    return x.dtype is y.dtype is torch.float32 and x.is_contiguous() and y.is_contiguous()


def native_layout(kernel: Kernel, shape: SlotShape) -> Layout:
    """The kernel for short segments in float32 on the CPU, torch operations for the rest."""
    from ramole.mixture.native_kernel import scratch_bytes

    def layout(plan: StepPlan, num_modules: int) -> NativeForm:
        size = scratch_bytes(plan.slots.shape[1], shape.slot_rank, shape.router_rank)
        return NativeForm(kernel, plan, num_modules, np.empty(-(-size // 8), np.int64))

    return layout
