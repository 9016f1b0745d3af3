"""SUBSPACE: the experts of a prompt forced into one space that they share, of no more dimensions than one of them.

For each module the k experts' updates B_i A_i, each scaled to norm 1, are stacked side by side and one upon the other;
the R first singular vectors of either stack, R the largest of their ranks, span the joint space. Whatever the weights,

    y += P P^T (sum_i a_i B_i A_i) Q Q^T x,    P [o, R], Q [d, R].

If adapters of different tasks lived in a common space, nothing would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ramole.lab.evaluation.rivals import PoolForm
from ramole.lab.training.lm import PaddedBatch
from ramole.mixture.plan import StepPlan
from ramole.mixture.slots import ModuleSlots
from ramole.mixture.step import packed

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class JointSpaces:
    """The joint spaces that were made so far, for one mixture whose slots do not change.

    Args:
        rank: R, their dimensions; 0 = the largest rank of the experts.
    """

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        self._known: dict[tuple[int, tuple[int, ...]], Factors] = {}

    def factors(self, module: ModuleSlots, slots: Sequence[int]) -> Factors:
        """P [o, R], Q [d, R] and the cores P^T B_i A_i Q [k, R, R] of the slots that touch the module."""
        key = module.index, tuple(slots)
        if key not in self._known:
            a, b = module.lora_a[list(slots)].double(), module.lora_b[list(slots)].double().transpose(1, 2)
            q, r = torch.linalg.qr(b)
            p, s = torch.linalg.qr(a.transpose(1, 2))
            left, values, right = torch.linalg.svd(r @ s.transpose(1, 2))
            shares = (values / values.norm(dim=1, keepdim=True).clamp_min(1e-30)).unsqueeze(1)
            rank = self._rank or int(module.ranks[list(slots)].max())
            basis_p = _first((q @ left) * shares, rank)
            basis_q = _first((p @ right.transpose(1, 2)) * shares, rank)
            self._known[key] = basis_p.float(), basis_q.float(), (basis_p.T @ b @ a @ basis_q).float()
        return self._known[key]


class JointForm(PoolForm):
    """The experts of each request, weighted by its gates and scales, inside the joint space of them all.

    A gate of 0 makes an expert a member of the space and no more.
    """

    def __init__(self, plan: StepPlan, batch: PaddedBatch, spaces: JointSpaces) -> None:
        super().__init__(plan, batch)
        self._spaces = spaces

    def add(self, x: torch.Tensor, y: torch.Tensor, module: ModuleSlots) -> None:
        """See `Form`."""
        x, y = packed(x), packed(y)
        weights = self.plan.gates * self.plan.scales
        for row, (start, end) in enumerate(self.plan.segments):
            places = [i for i, slot in enumerate(self.plan.slots[row].tolist()) if module.ranks[slot]]
            if not weights[row, places].any():
                continue
            left, right, cores = self._spaces.factors(module, self.plan.slots[row, places].tolist())
            core = torch.einsum("k,kij->ij", torch.from_numpy(weights[row, places]), cores)
            y[start:end] += x[start:end] @ right @ core.T @ left.T


def _first(stacked: torch.Tensor, rank: int) -> torch.Tensor:
    """The first left singular vectors of [k, n, r] laid side by side, [n, rank]."""
    flat = stacked.permute(1, 0, 2).flatten(1)
    left: torch.Tensor = torch.linalg.svd(flat, full_matrices=False)[0]
    return left[:, :rank]
