"""Data-parallel training without knowing who started the processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among those that train together. Every one draws its own batches; gradients are averaged."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> Self:
        """The process group that somebody (Ray Train, torchrun) has set up; one process alone if nobody has."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replaces each tensor by its mean over all workers. Collective: every worker must call it."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(self.size)
