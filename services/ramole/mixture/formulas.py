"""The mathematics of the mixture, for rows of tokens.

Semantics, for each token row x with experts i (see core/composition.py):
    u_i = A_i x                                   shrink
    q   = A_r x
    s_i = q^T C_i u_i / sqrt(Q)                   C_i = B_r^T B_i, so that s_i = <q, B_r^T (B_i A_i x)> / sqrt(Q)
    a   = softmax_i(g_i + s_i)                    over the experts of a routed request; of others a = g
    h_i = c_i a_i u_i                             OUTPUTS
    h_i = c_i a_i sum_j a_j u_j                   PARAMETERS
    y  += sum_i B_i h_i                           expand

An expert that does not touch a module is A_i = 0, B_i = 0 there: it scores 0, keeps its weight and adds nothing.

Every form reads only the slots of a row's own experts when it combines them, so that a non-finite value in one adapter
can not reach another request (0 * NaN is NaN: masking by multiplication would let it through).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ramole.mixture.plan import BoolArray, FloatArray, IntArray, StepPlan


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """What the formulas need to know about the experts of n token rows. Shapes [n, k], flags [n, 1].

    n is 1 for a segment: all tokens of one request share their row.
    """

    slots: torch.Tensor
    gates: torch.Tensor
    scales: torch.Tensor
    is_expert: torch.Tensor
    is_routed: torch.Tensor
    merges_parameters: torch.Tensor

    @classmethod
    def of(cls, plan: StepPlan, device: torch.device) -> ExpertRows:
        """One row for each request of a plan, on the device."""

        def put(array: BoolArray | FloatArray | IntArray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            slots=put(plan.slots),
            gates=put(plan.gates),
            scales=put(plan.scales),
            is_expert=put(plan.slots != 0),
            is_routed=put(plan.is_routed[:, None]),
            merges_parameters=put(plan.merges_parameters[:, None]),
        )

    def cut(self, rows: slice, num_experts: int) -> ExpertRows:
        """The same for some of the rows and the leading experts."""
        return ExpertRows(
            self.slots[rows, :num_experts],
            self.gates[rows, :num_experts],
            self.scales[rows, :num_experts],
            self.is_expert[rows, :num_experts],
            self.is_routed[rows],
            self.merges_parameters[rows],
        )


def masked_softmax(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis in float32, 0 where the mask is False; a row without any True is all 0, not NaN."""
    logits = logits.float().masked_fill(~mask, -math.inf)
    top = logits.amax(-1, keepdim=True)
    e = torch.exp(logits - torch.where(torch.isfinite(top), top, 0.0))
    e = torch.where(mask, e, 0.0)
    return e / e.sum(-1, keepdim=True).clamp_min(1e-30)


def expert_weights(scores: torch.Tensor | None, rows: ExpertRows) -> torch.Tensor:
    """a [n, k] float32, from scores [n, k] (None when no row is routed)."""
    if scores is None:
        return rows.gates
    a = masked_softmax(rows.gates + scores.float(), rows.is_expert.expand_as(scores))
    return torch.where(rows.is_routed, a, rows.gates)


def combine(u: torch.Tensor, a: torch.Tensor, rows: ExpertRows) -> torch.Tensor:
    """h [n, k, R] from u [n, k, R] and a [n, k]."""
    weight = a.to(u.dtype).unsqueeze(-1)
    own = weight * u
    mean = own.sum(-2, keepdim=True) * weight
    h = torch.where(rows.merges_parameters.unsqueeze(-1), mean, own)
    return h * rows.scales.to(u.dtype).unsqueeze(-1)


def route(q: torch.Tensor, coupling: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """s [n, k] = q^T C u / sqrt(Q), from q [n, Q], C [n or 1, k, Q, R], u [n, k, R]."""
    keys = torch.einsum("nkqr,nkr->nkq", coupling.expand(u.shape[0], -1, -1, -1), u)
    return torch.einsum("nq,nkq->nk", q, keys) / math.sqrt(q.shape[-1])
