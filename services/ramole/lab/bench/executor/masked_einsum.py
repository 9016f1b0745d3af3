"""The paper's formulation, written as it stands there: every adapter's output for every token, then a mask."""

from __future__ import annotations

import math

import torch

from ramole.mixture.formulas import masked_softmax


class MaskedEinsum:
    """sum_i a_i B_i A_i x through V [T, p, o]. Rival and cross-check, never used for serving."""

    def __init__(
        self,
        *,
        a: torch.Tensor,
        b: torch.Tensor,
        router_a: torch.Tensor,
        router_b: torch.Tensor,
        mask: torch.Tensor,
        is_routed: bool,
    ) -> None:
        """a [p, r, d], b [p, o, r], A_r [Q, d], B_r [o, Q], mask M [T, p]."""
        self._a, self._b, self._mask, self._is_routed = a, b, mask, is_routed
        self._router_a, self._router_b = router_a, router_b

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, d] -> [T, o]."""
        values = torch.einsum("tpr,por->tpo", torch.einsum("td,prd->tpr", x, self._a), self._b)
        scores = torch.zeros_like(self._mask, dtype=x.dtype)
        if self._is_routed:
            query = x @ self._router_a.T
            keys = torch.einsum("tpo,oq->tpq", values, self._router_b)
            scores = torch.einsum("tq,tpq->tp", query, keys) / math.sqrt(query.shape[-1])
        return torch.einsum("tp,tpo->to", masked_softmax(scores, self._mask), values)
