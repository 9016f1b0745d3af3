"""A form of fixed size, as decode graphs use it: tokens lie at their KV rows, the places between belong to nobody."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ramole.core.composition import Composition, Expert, Weighting
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Step

pytest.importorskip("triton", reason="triton is not installed: ITS KERNELS ARE NOT TESTED")

D, WIDTH, ROWS = 20, 12, 8
SHAPE = SlotShape(5, 4, 3)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mix(*slots: int) -> RequestMixture:
    return RequestMixture.build(Composition(Weighting.ROUTER), [Expert("") for _ in slots], slots)


def test_one_form_serves_step_after_step_of_any_size() -> None:
    from ramole.mixture.triton_form import TritonForm, triton_layout

    torch.manual_seed(0)
    model = nn.ModuleDict({"proj": nn.Linear(D, WIDTH)}).requires_grad_(False).to(DEVICE)
    router = LoraPair(torch.randn(3, D), torch.randn(WIDTH, 3))
    mixture = Mixture(model, SHAPE, AdapterWeights({"proj": router}), triton_layout(DEVICE, SHAPE))
    for slot in range(1, 5):
        pair = LoraPair(torch.randn(slot, D), torch.randn(WIDTH, slot))
        mixture.write(slot, AdapterWeights({"proj": pair}))
    form = TritonForm(DEVICE, SHAPE, num_modules=1, num_tokens=ROWS, num_experts=4, num_narrow=ROWS, num_wide=0)

    def padded(plan: StepPlan, rows: list[int], x: torch.Tensor) -> torch.Tensor:
        form.fill(plan, at=np.array(rows))
        room = torch.randn(ROWS, D, device=DEVICE)
        room[rows] = x
        with mixture.running_step(Step(plan, form)):
            return model["proj"](room)[rows]

    for rows, mixtures in (
        ([1, 3, 6], [mix(1, 2), mix(3), mix(4, 1, 2)]),
        ([0], [mix(2)]),
        ([0, 2, 4, 5, 7], [mix(1), mix(), mix(1, 3), mix(2, 4), mix(1)]),
    ):
        plan = build_step_plan(mixtures, [1] * len(rows))
        x = torch.randn(len(rows), D, device=DEVICE)
        got = padded(plan, rows, x)
        used = form.usage()
        with mixture.running(plan) as step:
            want = model["proj"](x)
        assert step is not None
        torch.testing.assert_close(got, want)
        np.testing.assert_allclose(used, step.form.usage(), rtol=1e-5)
