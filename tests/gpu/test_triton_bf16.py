"""The Triton kernels in bfloat16 against the paper's formulas over the same rounded weights, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.mixture.reference import reference_update
from ramole.mixture.slots import SlotShape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: nothing of this file was tested"),
]

NAME, D, WIDTH, Q = "proj", 1100, 700, 8  # no power of two: every mask is used
LENGTHS = (1, 1, 1, 15, 17, 64, 130)


@pytest.mark.parametrize("rank", [4, 16, 40])
@pytest.mark.parametrize("merge", list(Merge))
@pytest.mark.parametrize("weighting", list(Weighting))
def test_a_step_in_bfloat16(weighting: Weighting, merge: Merge, rank: int) -> None:
    from ramole.mixture.triton_form import triton_layout

    g = torch.Generator().manual_seed(0)

    def rounded(*size: int, scale: float) -> torch.Tensor:
        return (scale * torch.randn(size, generator=g)).bfloat16()

    model = nn.ModuleDict({NAME: nn.Linear(D, WIDTH, bias=False)}).bfloat16().cuda().requires_grad_(False)
    router = LoraPair(rounded(Q, D, scale=D**-0.5), rounded(WIDTH, Q, scale=0.1))
    shape = SlotShape(6, rank, Q)
    mixture = Mixture(model, shape, AdapterWeights({NAME: router}), triton_layout(torch.device("cuda"), shape))
    pairs = {
        slot: LoraPair(rounded(r, D, scale=D**-0.5), rounded(WIDTH, r, scale=1.0))
        for slot, r in enumerate((rank, rank // 2, 1, rank, rank - 1), 1)
    }
    for slot, pair in pairs.items():
        mixture.write(slot, AdapterWeights({NAME: pair}))
    chosen = [[1, 2, 3], [4], [1, 2, 3], [2, 5], [5, 4, 3], [1, 2, 3], [3, 1]]
    composition = Composition(weighting, merge, tau=0.2)
    experts = [[Expert("", similarity=0.1 * s, weight=0.3, scale=0.7) for s in slots] for slots in chosen]
    plan = build_step_plan(
        [RequestMixture.build(composition, e, s) for e, s in zip(experts, chosen, strict=True)], LENGTHS
    )
    x = rounded(plan.num_tokens, D, scale=1.0)
    with torch.inference_mode(), mixture.running(plan):
        y = model[NAME](x.cuda()).cpu().double()
    for slots, own, (start, stop) in zip(chosen, experts, plan.segments, strict=True):
        part = x[start:stop]
        update = reference_update(part, [pairs[s] for s in slots], own, composition, router)
        want = part.double() @ model[NAME].base.weight.cpu().double().T + update
        assert float((y[start:stop] - want).norm() / want.norm()) < 1e-2
