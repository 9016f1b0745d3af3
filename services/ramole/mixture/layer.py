"""One wrapped module: the frozen base layer, and its slots."""

from __future__ import annotations

from itertools import chain
from typing import cast

import torch
from torch import nn

from ramole.mixture.slots import ModuleSlots, SlotShape
from ramole.mixture.step import StepContext

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # others are of quantised weights


class MixtureLinear(nn.Module):
    """y = base(x) + the mixture of the step's experts. Does nothing but the base when no step is running."""

    def __init__(
        self,
        base: nn.Module,
        *,
        index: int,
        widths: tuple[int, int],
        shape: SlotShape,
        context: StepContext,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Wraps `base`, a module of widths (d, o). `index` is its number among the wrapped modules.

        `dtype` is that of the adapters where the base's weights are quantised: the one of its activations.
        """
        super().__init__()
        self.base = base
        self._context = context
        # Some quantised modules have no `weight`, and of none is it of the dtype that they compute in.
        tensor = next(chain(base.parameters(), base.buffers()))
        dtype = tensor.dtype if tensor.dtype in _FLOATS else dtype
        self.slots = ModuleSlots(index, widths, shape, dtype=dtype, device=tensor.device)

    @property
    def weight(self) -> torch.Tensor:
        """The base weight: model code asks its projections for dtype and device."""
        return cast(torch.Tensor, self.base.weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """The base bias."""
        return cast("torch.Tensor | None", getattr(self.base, "bias", None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., d] -> [..., o]; the leading axes are the T packed tokens of the running step, or their last ones."""
        y = cast(torch.Tensor, self.base(x))
        step = self._context.step
        if step is None:
            return y
        step.form_for(x.numel() // x.shape[-1]).add(x, y, self.slots)
        return y
