"""Compute forms of the mixture: the same mathematics, laid out for different shapes of a step.

Semantics, for each token row x with experts i (see core/composition.py):
    u_i = A_i x                                   shrink
    q   = A_r x
    s_i = q^T C_i u_i / sqrt(Q)                   C_i = B_r^T B_i, so that s_i = <q, B_r^T (B_i A_i x)> / sqrt(Q)
    a   = softmax_i(logit_i + is_routed * s_i)    over the experts of the request; or the explicit weights
    h_i = c_i a_i u_i                             OUTPUTS
    h_i = c_i a_i sum_j a_j u_j                   PARAMETERS
    y  += sum_i B_i h_i                           expand

An expert that does not touch a module is A_i = 0, B_i = 0 there: it scores 0, keeps its weight and adds nothing.

Every form reads only the slots of a row's own experts when it combines them, so that a non-finite value in one adapter
can not reach another request (0 * NaN is NaN: masking by multiplication would let it through).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F

from ramole.mixture.native import NativeModule
from ramole.mixture.plan import IntArray
from ramole.mixture.step import ExpertRows, Step


class SlotTensors(Protocol):
    """What a form reads of one module."""

    index: int
    lora_a: torch.Tensor  # [S, R, d]
    lora_b: torch.Tensor  # [S, R, o], B^T with all scaling folded in
    ranks: IntArray  # [S], on the host: 0 where a slot does not touch this module
    native: NativeModule | None  # None where the kernel cannot read these tensors

    @property
    def router_a(self) -> torch.Tensor:
        """A_r [Q, d]."""

    def coupling(self, slots: torch.Tensor) -> torch.Tensor:
        """C for some slots: [..., Q, R]."""


def masked_softmax(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis in float32, 0 where the mask is False; a row without any True is all 0, not NaN."""
    logits = logits.float().masked_fill(~mask, -math.inf)
    top = logits.amax(-1, keepdim=True)
    e = torch.exp(logits - torch.where(torch.isfinite(top), top, 0.0))
    e = torch.where(mask, e, 0.0)
    return e / e.sum(-1, keepdim=True).clamp_min(1e-30)


def expert_weights(scores: torch.Tensor | None, rows: ExpertRows) -> torch.Tensor:
    """a [n, k] float32, from scores [n, k] (None when no row is routed)."""
    logits = rows.logits
    if scores is not None:
        logits = logits + torch.where(rows.is_routed, scores.float(), 0.0)
    a = masked_softmax(logits, rows.is_expert.expand_as(logits))
    return torch.where(rows.is_explicit, rows.weights, a)


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


def add_segments(x: torch.Tensor, y: torch.Tensor, module: SlotTensors, step: Step, first: int) -> None:
    """Adds the update of the requests from `first` on, request by request.

    Args:
        x: [T, d]. y: [T, o], changed in place.
    """
    for i in range(first, step.plan.num_requests):
        add_segment(x, y, module, step, i)


def add_segment(x: torch.Tensor, y: torch.Tensor, module: SlotTensors, step: Step, i: int) -> None:
    """Adds the update of request i: two GEMMs of rank k R.

    Args:
        x: [T, d]. y: [T, o], changed in place.
    """
    if not module.ranks[step.plan.slots[i]].any():
        return
    num_experts = int((step.plan.slots[i] != 0).sum())
    rows = _cut(step.rows[i : i + 1], num_experts)
    slots = rows.slots[0]
    start, stop = step.segments[i]
    xs = x[start:stop]
    u = (xs @ module.lora_a[slots].flatten(0, 1).T).view(-1, num_experts, module.lora_a.shape[1])
    scores = None
    if step.plan.is_routed[i]:
        scores = route(xs @ module.router_a.T, module.coupling(slots).unsqueeze(0), u)
    a = expert_weights(scores, rows).expand(stop - start, -1)
    h = combine(u, a, rows)
    y[start:stop] += h.flatten(1) @ module.lora_b[slots].flatten(0, 1)
    step.record(module.index, i, _pad(a.sum(0, keepdim=True), step.plan.slots.shape[1]))


def add_decode(x: torch.Tensor, y: torch.Tensor, module: SlotTensors, step: Step) -> None:
    """Adds the update of the leading one-token requests, all together.

    Shrink is one GEMM over their unique adapters, of which each row keeps its own experts' columns; expand is a
    weighted bag of rows of B, which copies nothing and reads own rows only.

    Args:
        x: [T, d]. y: [T, o], changed in place.
    """
    n = step.plan.num_decode
    num_slots, rank, _ = module.lora_a.shape
    rows = step.rows[:n]
    if not module.ranks[step.plan.slots[:n]].any():
        return
    shrunk = x[:n] @ module.lora_a[step.decode_adapters].flatten(0, 1).T
    columns = step.decode_columns.unsqueeze(-1).expand(-1, -1, rank)
    u = shrunk.view(n, -1, rank).gather(1, columns)
    scores = None
    if step.decode_is_routed:
        scores = route(x[:n] @ module.router_a.T, module.coupling(rows.slots), u)
    a = expert_weights(scores, rows)
    h = combine(u, a, rows)
    bag = (rows.slots.unsqueeze(-1) * rank + torch.arange(rank, device=x.device)).flatten(1)
    table = module.lora_b.view(num_slots * rank, -1)
    y[:n] += F.embedding_bag(bag, table, per_sample_weights=h.flatten(1), mode="sum")
    step.record(module.index, 0, a)


def add_mixture(x: torch.Tensor, y: torch.Tensor, module: SlotTensors, step: Step) -> None:
    """Adds the whole step's update to y. Which form computes which request is decided here and nowhere else.

    Short segments: the kernel, where it can; else decode rows together. Longer segments: GEMMs, one by one.
    """
    is_trained = module.router_a.requires_grad
    if step.native and module.native and not is_trained and not y.requires_grad and NativeModule.fits(x, y):
        step.native.add(module.native, x, y)
        for i in step.native.others:
            add_segment(x, y, module, step, i)
    elif step.plan.num_decode > 1 and not is_trained:
        add_decode(x, y, module, step)
        add_segments(x, y, module, step, step.plan.num_decode)
    else:
        add_segments(x, y, module, step, 0)


def _cut(rows: ExpertRows, k: int) -> ExpertRows:
    return ExpertRows(
        rows.slots[:, :k],
        rows.logits[:, :k],
        rows.weights[:, :k],
        rows.scales[:, :k],
        rows.is_expert[:, :k],
        rows.is_routed,
        rows.is_explicit,
        rows.merges_parameters,
    )


def _pad(a: torch.Tensor, k: int) -> torch.Tensor:
    return F.pad(a, (0, k - a.shape[-1]))
