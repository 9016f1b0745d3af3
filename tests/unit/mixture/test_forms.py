"""Every compute form against the paper's formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.native import load_kernel, native_layout
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.mixture.reference import reference_update
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Layout
from ramole.mixture.torch_form import torch_layout

D, WIDTH, Q, SLOTS, RANK = 12, 10, 4, 9, 6
NAME = "layers.0.proj"


SHAPE = SlotShape(SLOTS, RANK, Q)


class Forms:
    """The form that `build` gives its mixtures, where it runs, and in how many examples it is worth its time."""

    layout: Layout
    device = torch.device("cpu")
    max_examples = 0


@pytest.fixture(params=["torch", "native", "triton"], scope="module", autouse=True)
def forms(request: pytest.FixtureRequest) -> None:
    Forms.layout, Forms.device = torch_layout(torch.device("cpu")), torch.device("cpu")
    Forms.max_examples = 120
    if request.param == "triton":
        pytest.importorskip("triton", reason="triton is not installed: ITS KERNELS ARE NOT TESTED")
        from ramole.mixture.triton_form import triton_layout

        # Without a GPU the kernels run in Triton's interpreter, see conftest.py.
        Forms.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        Forms.layout = triton_layout(Forms.device, SHAPE)
        if Forms.device.type == "cpu":
            Forms.max_examples = 12  # the interpreter takes half a second each; many: the slow test
    if request.param == "native":
        kernel = load_kernel()
        if kernel is None:
            pytest.skip("numba does not work here: THE NATIVE FORM IS NOT TESTED")
        Forms.layout = native_layout(kernel, SHAPE)


class OneLinear(nn.Module):
    """A model of one wrapped module, called as transformers' layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(D, WIDTH)})])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        proj = self.layers[0]["proj"]
        return proj(x.to(proj.weight.device)).cpu()


def random_pair(seed: int, rank: int) -> LoraPair:
    g = torch.Generator().manual_seed(seed)
    return LoraPair(torch.randn(rank, D, generator=g) / D**0.5, torch.randn(WIDTH, rank, generator=g) / rank**0.5)


def build(ranks: dict[int, int], seed: int = 0) -> tuple[OneLinear, Mixture, dict[int, LoraPair | None], LoraPair]:
    """A mixture with an adapter of the given rank in each slot; rank 0 = it does not touch the module."""
    torch.manual_seed(seed)
    model = OneLinear().requires_grad_(False).to(Forms.device)
    router = LoraPair(torch.randn(Q, D), torch.randn(WIDTH, Q))
    mixture = Mixture(model, SHAPE, AdapterWeights({NAME: router}), Forms.layout)
    mixture.wrap(NAME)
    pairs: dict[int, LoraPair | None] = {}
    for slot, rank in ranks.items():
        pairs[slot] = random_pair(seed * 100 + slot, rank) if rank else None
        mixture.write(slot, AdapterWeights({NAME: pairs[slot]} if pairs[slot] else {}))
    return model, mixture, pairs, router


compositions = st.builds(
    Composition,
    weighting=st.sampled_from(Weighting),
    merge=st.sampled_from(Merge),
    tau=st.sampled_from([0.02, 0.1, 1.0]),
    spread=st.sampled_from([0.0, 0.35, 1.0]),
    scale=st.sampled_from([1.0, 0.5, -1.3]),
)
experts = st.builds(
    Expert,
    digest=st.just(""),
    similarity=st.floats(-1, 1),
    weight=st.floats(-2, 2).map(lambda weight: weight if abs(weight) >= 1e-6 else 0.0),
    scale=st.sampled_from([1.0, 0.3]),
)


@st.composite
def steps(draw: st.DrawFn) -> tuple[dict[int, int], list[tuple[Composition, list[int], list[Expert], int]]]:
    """Adapters with mixed ranks (some absent here) and requests over them by popularity, decode rows first."""
    ranks = {slot: draw(st.integers(0, RANK)) for slot in range(1, SLOTS)}
    popularity = draw(st.sampled_from(["identical", "distinct", "uniform", "zipf"]))
    requests = []
    for i in range(draw(st.integers(1, 6))):
        k = draw(st.integers(0, 8))
        match popularity:
            case "identical":
                slots = list(range(1, k + 1))
            case "distinct":
                slots = [1 + (i * 4 + j) % (SLOTS - 1) for j in range(k)]
            case "uniform":
                slots = draw(st.permutations(range(1, SLOTS)))[:k]
            case _:
                slots = [1 + int(draw(st.floats(0, 0.999)) ** 3 * (SLOTS - 1)) for _ in range(k)]
        length = draw(st.sampled_from([1, 1, 1, 2, 5, 20, 70]))
        requests.append((draw(compositions), slots, [draw(experts) for _ in slots], length))
    requests.sort(key=lambda r: r[3] != 1)
    return ranks, requests


def check_packed(max_examples: int) -> None:
    """A packed step equals the paper's formula for each request."""

    @given(steps())
    @settings(max_examples=max_examples, deadline=None)
    def check(step: Any) -> None:
        ranks, requests = step
        model, mixture, pairs, router = build(ranks)
        plan = build_step_plan([RequestMixture.build(c, e, s) for c, s, e, _ in requests], [n for *_, n in requests])
        x = torch.randn(plan.num_tokens, D, generator=torch.Generator().manual_seed(3))
        with mixture.running(plan):
            y = model(x)
        for (composition, slots, chosen, _), (start, stop) in zip(requests, plan.segments, strict=True):
            update = reference_update(x[start:stop], [pairs[s] for s in slots], chosen, composition, router)
            base = model.layers[0]["proj"].base
            want = torch.nn.functional.linear(x[start:stop], base.weight.cpu(), base.bias.cpu()).double() + update
            scale = want.abs().max().clamp_min(1.0)
            assert (y[start:stop] - want).abs().max() / scale < 2e-5

    check()


def test_a_packed_step_equals_the_paper_formula_for_each_request() -> None:
    check_packed(Forms.max_examples)


@pytest.mark.slow
def test_a_packed_step_equals_the_paper_formula_in_depth() -> None:
    check_packed(400)


@given(steps())
@settings(max_examples=60, deadline=None)
def test_the_plan_is_the_deduplicated_batch(step) -> None:
    _, requests = step
    plan = build_step_plan([RequestMixture.build(c, e, s) for c, s, e, _ in requests], [n for *_, n in requests])
    assert len(set(plan.adapters)) == plan.num_adapters == len({s for _, slots, _, _ in requests for s in slots})
    assert 0 not in plan.adapters
    for i, (_, slots, _, _) in enumerate(requests):
        assert {plan.adapters[j] for j in np.flatnonzero(plan.mask[i])} == set(slots)
        assert [s for s in plan.slots[i].tolist() if s] == list(slots)
    assert plan.num_adapters <= plan.num_requests * plan.slots.shape[1]


def run(mixture: Mixture, model: OneLinear, x: torch.Tensor, *requests: tuple[RequestMixture, int]) -> torch.Tensor:
    plan = build_step_plan([m for m, _ in requests], [n for _, n in requests])
    with mixture.running(plan):
        return model(x)


def mix(slots: list[int], composition: Composition | None = None) -> RequestMixture:
    return RequestMixture.build(composition or Composition(), [Expert("") for _ in slots], slots)


def test_an_empty_mask_row_is_bit_equal_to_the_base() -> None:
    model, mixture, _, _ = build({1: 4, 2: 6})
    x = torch.randn(7, D)
    base = model(x)
    y = run(mixture, model, x, (mix([]), 1), (mix([1, 2]), 1), (mix([]), 3), (mix([1]), 2))
    assert torch.equal(y[0], base[0])
    assert torch.equal(y[2:5], base[2:5])
    assert not torch.allclose(y[1], base[1])


def test_copies_of_one_adapter_equal_that_adapter_alone() -> None:
    model, mixture, _, _ = build({1: 4})
    x = torch.randn(6, D)
    alone = run(mixture, model, x, (mix([1]), 6))
    for weighting in (Weighting.ROUTER, Weighting.UNIFORM, Weighting.SIMILARITY):
        for merge in Merge:
            y = run(mixture, model, x, (mix([1, 1, 1], Composition(weighting, merge)), 6))
            torch.testing.assert_close(y, alone)


def test_a_zero_router_is_the_uniform_mixture() -> None:
    model, mixture, _, router = build({1: 4, 2: 6, 3: 1})
    mixture.modules[NAME].set_router(LoraPair(router.a, torch.zeros_like(router.b)))
    x = torch.randn(5, D)
    routed = run(mixture, model, x, (mix([1, 2, 3]), 5))
    uniform = run(mixture, model, x, (mix([1, 2, 3], Composition(Weighting.UNIFORM)), 5))
    torch.testing.assert_close(routed, uniform)


def test_permuting_experts_changes_nothing() -> None:
    model, mixture, _, _ = build({1: 4, 2: 6, 3: 1})
    x = torch.randn(4, D)
    torch.testing.assert_close(run(mixture, model, x, (mix([1, 2, 3]), 4)), run(mixture, model, x, (mix([3, 1, 2]), 4)))


def test_the_factorisation_of_an_adapter_does_not_matter() -> None:
    model, mixture, pairs, _ = build({1: 4, 2: 6})
    x = torch.randn(4, D)
    before = run(mixture, model, x, (mix([1, 2]), 4))
    turn = torch.randn(4, 4) + 3 * torch.eye(4)
    pair = pairs[1]
    assert pair is not None
    mixture.write(1, AdapterWeights({NAME: LoraPair(torch.linalg.inv(turn) @ pair.a, pair.b @ turn)}))
    torch.testing.assert_close(run(mixture, model, x, (mix([1, 2]), 4)), before, rtol=1e-4, atol=1e-5)


def test_a_poisoned_adapter_stays_inside_the_requests_that_use_it() -> None:
    model, mixture, pairs, _ = build({1: 4, 2: 6, 3: 5})
    x = torch.randn(8, D)
    requests = [(mix([2, 3]), 1), (mix([1, 2]), 1), (mix([]), 1), (mix([2]), 3), (mix([1]), 2)]
    clean = run(mixture, model, x, *requests)
    pair = pairs[1]
    assert pair is not None
    for bad in (LoraPair(pair.a * float("nan"), pair.b), LoraPair(pair.a, pair.b * float("inf"))):
        mixture.write(1, AdapterWeights({NAME: bad}))
        y = run(mixture, model, x, *requests)
        assert not torch.isfinite(y[1]).all()
        assert not torch.isfinite(y[6:8]).all()
        assert torch.equal(y[0], clean[0])
        assert torch.equal(y[2:6], clean[2:6])
    mixture.clear(1)
    y = run(mixture, model, x, (mix([]), 4), (mix([2]), 4))
    assert torch.isfinite(y).all()


def test_usage_holds_the_weights_that_were_applied() -> None:
    model, mixture, _, _ = build({1: 4, 2: 6, 3: 0})
    uniform = Composition(Weighting.UNIFORM)
    plan = build_step_plan([mix([1, 2], uniform), mix([3], uniform), mix([1, 3], uniform)], [1, 1, 4])
    with mixture.running(plan) as step:
        model(torch.randn(6, D))
    assert step is not None
    weights, counts = mixture.usage(step)
    assert counts[0].tolist() == [1, 0, 4]  # the second request's only adapter does not touch the module
    np.testing.assert_allclose(weights[0], [[0.5, 0.5], [0.0, 0.0], [2.0, 2.0]])  # an absent expert keeps its weight
