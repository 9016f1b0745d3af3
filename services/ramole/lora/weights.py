"""The weights of one adapter, ready for the mixture: PEFT's names are gone, its scaling is folded in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The update of one module: ``delta(x) = b @ (a @ x)``.

    Attributes:
        a: ``[r, d]``, d = input width of the module.
        b: ``[o, r]``, o = output width; alpha / r (or alpha / sqrt(r)) is already folded in.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """All pairs of one adapter, by full module name, e.g. ``model.layers.0.self_attn.q_proj``."""

    pairs: Mapping[str, LoraPair]

    @property
    def rank(self) -> int:
        """The largest rank over the modules."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def num_bytes(self) -> int:
        """Size of all tensors in memory."""
        return sum(t.numel() * t.element_size() for pair in self.pairs.values() for t in (pair.a, pair.b))
