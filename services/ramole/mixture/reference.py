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

    Semantics, for the experts i that touch the module:
        v_i = B_i A_i x;  q = A_r x;  k_i = B_r^T v_i;  s_i = <q, k_i> / sqrt(Q)
        a = the weights of `composition`;  OUTPUTS: sum_i a_i c_i v_i;  PARAMETERS: (sum_i a_i c_i B_i)(sum_j a_j A_j) x

    Args:
        x: [n, d].
        pairs: the experts' pairs at this module; None where an expert does not touch it.
        router: A_r [Q, d], B_r [o, Q]; needed by the routed weightings.

    Returns:
        [n, o] float64, without the base's own output. Zeros of shape [n, 1] when no expert touches the module.
    """
    touching = [(pair, expert) for pair, expert in zip(pairs, experts, strict=True) if pair is not None]
    if not touching:
        return torch.zeros(x.shape[0], 1, dtype=torch.float64)
    # The prior is a softmax over all experts of the request; modules that some do not touch renormalise it.
    similarities = [expert.similarity / composition.tau for expert in experts]
    norm = math.log(sum(math.exp(s - max(similarities)) for s in similarities)) + max(similarities)
    out = []
    for token in x.double():
        shrunk = [pair.a.double() @ token for pair, _ in touching]
        values = [pair.b.double() @ u for (pair, _), u in zip(touching, shrunk, strict=True)]
        logits = torch.zeros(len(touching), dtype=torch.float64)
        if composition.weighting is Weighting.SIMILARITY:
            logits += torch.tensor([expert.similarity / composition.tau for _, expert in touching])
        if composition.weighting is Weighting.ROUTER_WITH_PRIOR:
            logits += torch.tensor([expert.similarity / composition.tau - norm for _, expert in touching])
        if composition.weighting.is_routed and len(experts) > 1:
            if router is None:
                raise ValueError("a routed weighting needs a router")
            query = router.a.double() @ token
            keys = [router.b.double().T @ value for value in values]
            logits += torch.stack([query @ key for key in keys]) / math.sqrt(router.rank)
        a = torch.softmax(logits, 0).tolist()
        if composition.weighting is Weighting.EXPLICIT:
            a = [expert.weight for _, expert in touching]
        c = [expert.scale * composition.scale for _, expert in touching]
        if composition.merge is Merge.OUTPUTS:
            out.append(sum((ai * ci * v for ai, ci, v in zip(a, c, values, strict=True)), torch.zeros(1)))
        else:
            rank = max(len(u) for u in shrunk)
            mean = sum(
                (ai * torch.nn.functional.pad(u, (0, rank - len(u))) for ai, u in zip(a, shrunk, strict=True)),
                torch.zeros(rank, dtype=torch.float64),
            )
            out.append(
                sum(
                    (
                        ai * ci * (pair.b.double() @ mean[: pair.rank])
                        for ai, ci, (pair, _) in zip(a, c, touching, strict=True)
                    ),
                    torch.zeros(1),
                )
            )
    return torch.stack(out)
