"""What the engine would be without its guards between requests: only there to be measured beside it."""

from __future__ import annotations

from collections.abc import Sequence as Ordered

import torch

from ramole.core.errors import RamoleError
from ramole.executor.runner import ModelRunner
from ramole.executor.sampler import Choice
from ramole.executor.sequence import Sequence


class UnguardedRunner(ModelRunner):
    """Leaves in a row what its last sequence has written, and does not look whether logits are numbers. Greedy only."""

    def wipe(self, row: int) -> None:
        """Nothing."""

    def choose(self, logits: torch.Tensor, sequences: Ordered[Sequence]) -> list[Choice | RamoleError]:
        """The largest logit."""
        return [Choice(token) for token in logits.argmax(-1).tolist()]
