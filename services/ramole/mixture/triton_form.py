"""The form for a GPU: two Triton kernels for each module and step, whatever is in the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ramole.mixture import triton_kernels
from ramole.mixture.plan import FloatArray, IntArray, StepPlan
from ramole.mixture.slots import ModuleSlots, SlotShape
from ramole.mixture.step import Layout, packed
from ramole.mixture.tiles import NARROW, WIDE, Tiles, cut_tiles
from ramole.mixture.torch_form import TorchForm


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the kernels cut their work for one width of tiles.

    A chunk is what one program of `shrink` sums up: short at decode, where few tokens must still fill the device.
    It must not depend on the batch, or the rounding would.
    """

    width: int
    chunk: int | None
    block_d: int
    block_o: int
    warps: int


BLOCKS = {
    NARROW: Blocks(NARROW, chunk=512, block_d=128, block_o=128, warps=4),
    WIDE: Blocks(WIDE, chunk=None, block_d=64, block_o=128, warps=4),
}


class TritonForm:
    """One step as the kernels read it, in tensors of fixed size that other plans can be written into."""

    sums_steps = False

    def __init__(
        self,
        device: torch.device,
        shape: SlotShape,
        *,
        num_modules: int,
        num_tokens: int,
        num_experts: int,
        num_narrow: int,
        num_wide: int,
    ) -> None:
        """Makes room for plans of up to `num_tokens` tokens, `num_experts` experts and so many tiles; see `fill`."""
        self._shape = shape
        self._sizes = num_tokens, num_experts, num_narrow, num_wide
        self._plan: StepPlan | None = None
        self._torch: TorchForm | None = None
        self._at: IntArray = np.arange(0)
        t, k = num_tokens, num_experts
        # One copy to the device for each step: everything lies in one buffer of 32-bit words.
        lengths = (t, *(t * k,) * 2, num_narrow * k, num_narrow * NARROW, num_wide * k, num_wide * WIDE)
        self._host = np.zeros(sum(lengths), np.int32)
        self._device = torch.zeros(sum(lengths), dtype=torch.int32, device=device)
        host, words = np.split(self._host, np.cumsum(lengths)[:-1]), torch.split(self._device, list(lengths))
        self._host_flags, self._host_values = host[0], [part.view(np.float32).reshape(t, k) for part in host[1:3]]
        self._host_tiles = [
            Tiles(host[i + 1].reshape(-1, width), host[i].reshape(-1, k)) for i, width in ((3, NARROW), (5, WIDE))
        ]
        self._flags, self._values = words[0], [part.view(torch.float32) for part in words[1:3]]
        self._tiles = [(BLOCKS[width], words[i + 1], words[i]) for i, width in ((3, NARROW), (5, WIDE))]
        self._usage = torch.zeros(num_modules, t, k, device=device)

    @classmethod
    def of(cls, plan: StepPlan, num_modules: int, device: torch.device, shape: SlotShape) -> TritonForm:
        """A form of exactly one plan's size."""
        tiles = cut_tiles(plan)
        narrow, wide = (len(part.slots) for part in tiles)
        form = cls(
            device,
            shape,
            num_modules=num_modules,
            num_tokens=plan.num_tokens,
            num_experts=plan.slots.shape[1],
            num_narrow=narrow,
            num_wide=wide,
        )
        form.fill(plan, tiles)
        return form

    def fill(self, plan: StepPlan, tiles: tuple[Tiles, Tiles] | None = None, at: IntArray | None = None) -> None:
        """Replaces the plan, which must fit; what is left of the room holds no tokens.

        Args:
            at: where each packed token of the plan lies in x and y; None = in the plan's own order.
        """
        k = plan.slots.shape[1]
        at = np.arange(plan.num_tokens) if at is None else at
        self._plan, self._torch, self._at = plan, None, at
        self._host[:] = 0
        flags = plan.is_routed * triton_kernels.IS_ROUTED + plan.merges_parameters * triton_kernels.MERGES_PARAMETERS
        self._host_flags[at] = np.repeat(flags, plan.lengths)
        for room, values in zip(self._host_values, (plan.gates, plan.scales), strict=True):
            room[at, :k] = np.repeat(values, plan.lengths, 0)
        for to, part in zip(self._host_tiles, tiles or cut_tiles(plan), strict=True):
            n = len(part.slots)
            to.tokens[:] = -1
            to.tokens[:n] = np.where(part.tokens < 0, -1, at[part.tokens])
            to.slots[:n, :k] = part.slots
        self._device.copy_(torch.from_numpy(self._host))

    @property
    def num_tokens(self) -> int:
        """See `Form`."""
        return self._sizes[0]

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """See `Form`. Gradients and other dtypes than the slots' are left to torch."""
        x, y = packed(x), packed(y)
        if module.router_a.requires_grad or y.requires_grad or not x.dtype == y.dtype == module.lora_a.dtype:
            self._rest().add(x, y, module)
            return
        x = x if x.stride(1) == 1 else x.contiguous()
        for blocks, tokens, slots in self._tiles:
            if len(tokens):
                self._add(x, y, module, blocks, tokens, slots)

    def usage(self) -> FloatArray:
        """See `Form`."""
        plan = self._filled()
        if self._torch is not None:
            return self._torch.usage()
        out: FloatArray
        if plan.num_tokens == plan.num_requests:
            out = self._usage.cpu().numpy()[:, self._at, : plan.slots.shape[1]]
            return out
        by_token = self._usage[:, : plan.num_tokens, : plan.slots.shape[1]].transpose(0, 1).contiguous()
        lengths = torch.tensor(plan.lengths, device=by_token.device)
        out = torch.segment_reduce(by_token, "sum", lengths=lengths, axis=0, unsafe=True).transpose(0, 1).cpu().numpy()
        return out

    def _filled(self) -> StepPlan:
        if self._plan is None:
            raise RuntimeError("no plan was filled in")
        return self._plan

    def _rest(self) -> TorchForm:
        if self._torch is None:
            self._torch = TorchForm(self._filled(), len(self._usage), self._device.device)
        return self._torch

    def _add(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        module: ModuleSlots,
        blocks: Blocks,
        tokens: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        d, o = module.lora_a.shape[2], module.lora_b.shape[2]
        r, q, k = self._shape.slot_rank, self._shape.router_rank, self._sizes[1]
        n = len(tokens) // blocks.width
        block_r = max(16, _power_of_2(r), _power_of_2(q))
        chunk = blocks.chunk or -(-d // blocks.block_d) * blocks.block_d
        splits = -(-d // chunk)
        u = torch.empty(splits * n * (k + 1) * blocks.width * block_r, device=x.device)
        gates, scales = self._values
        shared = {"R": r, "Q": q, "K": k, "BLOCK_T": blocks.width, "BLOCK_R": block_r, "num_warps": blocks.warps}
        triton_kernels.shrink[n, k + 1, splits](
            x,
            module.lora_a,
            module.router_a,
            module.device_ranks,
            tokens,
            slots,
            self._flags,
            u,
            d,
            x.stride(0),
            n,
            CHUNK=chunk,
            BLOCK_D=blocks.block_d,
            **shared,
        )
        triton_kernels.expand[n, -(-o // blocks.block_o)](
            y,
            module.lora_b,
            module.c,
            module.device_ranks,
            tokens,
            slots,
            gates,
            scales,
            self._flags,
            u,
            self._usage[module.index],
            o,
            y.stride(0),
            n,
            1 / math.sqrt(q),
            BLOCK_K=max(2, _power_of_2(k)),
            SPLITS=splits,
            BLOCK_O=blocks.block_o,
            **shared,
        )


def triton_layout(device: torch.device, shape: SlotShape) -> Layout:
    """The kernels for everything; torch operations while a router is trained."""
    return lambda plan, num_modules: TritonForm.of(plan, num_modules, device, shape)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
