"""The oracle: the paper's formulas, literally, token by token in float64. Slow on purpose: for tests only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lora.weights import LoraPair


def reference_update(
    x: torch.Tensor,
    pairs: Sequence[LoraPair | None],
    experts: Sequence[Expert],
    composition: Composition,
    router: LoraPair | None,
) -> torch.Tensor:
    """The update of one module for the tokens of one request.

    Semantics:
        v_i = B_i A_i x;  q = A_r x;  k_i = B_r^T v_i;  s_i = <q, k_i> / sqrt(Q)
        a = the weights of `composition`;  OUTPUTS: sum_i a_i c_i v_i;  PARAMETERS: (sum_i a_i c_i B_i)(sum_j a_j A_j) x

    Args:
        x: [n, d].
        pairs: the experts' pairs at this module; None where an expert does not touch it (A_i = B_i = 0).
        router: A_r [Q, d], B_r [o, Q]; needed by the routed weightings.

    Returns:
        [n, o] float64, without the base's own output. Zeros of shape [n, 1] when no expert touches the module.
    """
    widths = next(((pair.a.shape[1], pair.b.shape[0]) for pair in pairs if pair is not None), None)
    if widths is None:
        return torch.zeros(x.shape[0], 1, dtype=torch.float64)
    rank = max(pair.rank for pair in pairs if pair is not None)
    a_i = [_padded(pair.a, (rank, widths[0])) if pair else torch.zeros(rank, widths[0]).double() for pair in pairs]
    b_i = [_padded(pair.b, (widths[1], rank)) if pair else torch.zeros(widths[1], rank).double() for pair in pairs]
    c_i = [expert.scale * composition.scale for expert in experts]
    out = []
    for token in x.double():
        values = [b @ (a @ token) for a, b in zip(a_i, b_i, strict=True)]
        w_i = _weights(token, values, experts, composition, router)
        if composition.merge is Merge.OUTPUTS:
            update = sum(w * c * v for w, c, v in zip(w_i, c_i, values, strict=True))
        else:
            merged_a = sum(w * a for w, a in zip(w_i, a_i, strict=True))
            merged_b = sum(w * c * b for w, c, b in zip(w_i, c_i, b_i, strict=True))
            update = merged_b @ (merged_a @ token)
        out.append(torch.as_tensor(update))
    return torch.stack(out)


def _weights(
    token: torch.Tensor,
    values: Sequence[torch.Tensor],
    experts: Sequence[Expert],
    composition: Composition,
    router: LoraPair | None,
) -> list[float]:
    if composition.weighting is Weighting.EXPLICIT:
        return [expert.weight for expert in experts]
    logits = torch.zeros(len(experts), dtype=torch.float64)
    scaled = torch.tensor([expert.similarity / composition.tau for expert in experts], dtype=torch.float64)
    if composition.weighting in (Weighting.SIMILARITY, Weighting.ROUTER_WITH_PRIOR):
        nearest = torch.softmax(scaled, 0)
        logits += torch.log((1 - composition.spread) * nearest + composition.spread / len(experts))
    if composition.weighting.is_routed and len(experts) > 1:
        if router is None:
            raise ValueError("a routed weighting needs a router")
        query = router.a.double() @ token
        keys = [router.b.double().T @ value for value in values]
        logits += torch.stack([query @ key for key in keys]) / math.sqrt(router.rank)
    return torch.softmax(logits, 0).tolist()


def _padded(factor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    out = torch.zeros(shape, dtype=torch.float64)
    out[: factor.shape[0], : factor.shape[1]] = factor
    return out
