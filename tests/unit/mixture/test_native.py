"""What only the native form promises, and where it hands over to the torch forms."""

from __future__ import annotations

import copy
import logging
import sys
from typing import Any

import numba
import pytest
import torch
from torch import nn

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.native import Kernel, NativeForm, load_kernel, max_segment_tokens, native_layout
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.mixture.slots import SlotShape

D, WIDTH, Q, RANK = 37, 50, 4, 8
NAME = "proj"
RANKS = (8, 3, 1, 6, 5)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    loaded = load_kernel()
    assert loaded is not None
    return loaded


def make_mixture(kernel: Kernel | None) -> tuple[nn.Module, Mixture]:
    """One wrapped module with an adapter of rank RANKS[i] in slot i + 1: the same numbers at every call."""
    torch.manual_seed(5)
    model = nn.ModuleDict({NAME: nn.Linear(D, WIDTH)}).requires_grad_(False)
    router = LoraPair(torch.randn(Q, D) / D**0.5, torch.randn(WIDTH, Q) / 2)
    shape = SlotShape(len(RANKS) + 1, RANK, Q)
    layout = native_layout(kernel, shape) if kernel else None
    mixture = Mixture(model, shape, AdapterWeights({NAME: router}), layout)
    for i, rank in enumerate(RANKS):
        mixture.write(i + 1, AdapterWeights({NAME: LoraPair(torch.randn(rank, D) / 6, torch.randn(WIDTH, rank))}))
    return model, mixture


def mix(slots: list[int], weighting: Weighting = Weighting.ROUTER, merge: Merge = Merge.OUTPUTS) -> RequestMixture:
    experts = [Expert("", similarity=0.3 * slot, weight=0.2 * slot) for slot in slots]
    return RequestMixture.build(Composition(weighting, merge, tau=0.5), experts, slots)


REQUESTS = [
    (mix([1, 2, 3]), 1),
    (mix([]), 1),
    (mix([2], Weighting.UNIFORM), 1),
    (mix([4, 5, 1, 2], Weighting.ROUTER_WITH_PRIOR, Merge.PARAMETERS), 1),
    (mix([3, 1], Weighting.EXPLICIT), 3),
    (mix([2, 4, 5]), 300),
    (mix([3, 2]), 70),
    (mix([5, 3], Weighting.SIMILARITY), 7),
    (mix([1, 4], merge=Merge.PARAMETERS), 260),
]


def run(model: nn.Module, mixture: Mixture, x: torch.Tensor, requests: list[tuple[RequestMixture, int]]) -> Any:
    """The output, and the usage behind it."""
    with mixture.running(build_step_plan([m for m, _ in requests], [n for _, n in requests])) as step:
        y = model[NAME](x)
    assert step is not None
    return y, mixture.usage(step)


def tokens(requests: list[tuple[RequestMixture, int]]) -> torch.Tensor:
    return torch.randn(sum(n for _, n in requests), D, generator=torch.Generator().manual_seed(1))


def test_a_request_alone_is_bit_equal_to_the_request_in_a_batch(kernel: Kernel) -> None:
    model, mixture = make_mixture(kernel)
    requests = [(m, n) for m, n in REQUESTS if m.slots and n <= max_segment_tokens(torch.get_num_threads())]
    x = tokens(requests)
    base = model[NAME].base(x)  # a GEMM of T rows: its own rounding may depend on T, the update must not
    together = run(model, mixture, x, requests)[0] - base
    start = 0
    for request in requests:
        stop = start + request[1]
        update = torch.zeros(request[1], WIDTH)
        plan = build_step_plan([request[0]], [request[1]])
        form = mixture.step(plan).form
        assert isinstance(form, NativeForm)
        module = mixture.modules[NAME].native
        assert module is not None
        update += base[start:stop]
        form.add_short(x[start:stop].contiguous(), update, module)
        assert torch.equal(update - base[start:stop], together[start:stop])
        start = stop


def test_short_and_long_segments_share_a_step(kernel: Kernel) -> None:
    x = tokens(REQUESTS)
    got, (weights, counts) = run(*make_mixture(kernel), x, REQUESTS)
    want, (want_weights, want_counts) = run(*make_mixture(None), x, REQUESTS)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert weights == pytest.approx(want_weights, rel=1e-4)
    assert (counts == want_counts).all()


def test_a_slot_that_is_written_again_has_its_new_rank(kernel: Kernel) -> None:
    model, mixture = make_mixture(kernel)
    x = torch.randn(1, D)
    pair = LoraPair(torch.randn(2, D), torch.randn(WIDTH, 2))
    mixture.write(1, AdapterWeights({NAME: pair}))
    y, _ = run(model, mixture, x, [(mix([1]), 1)])
    base = model[NAME].base(x)
    torch.testing.assert_close(y - base, x @ pair.a.T @ pair.b.T, rtol=1e-4, atol=1e-4)
    mixture.clear(1)
    assert torch.equal(run(model, mixture, x, [(mix([1]), 1)])[0], base)


def test_another_precision_is_left_to_torch_and_coming_back_is_noticed(kernel: Kernel) -> None:
    model, mixture = make_mixture(kernel)
    x = tokens(REQUESTS)
    want, _ = run(model, mixture, x, REQUESTS)
    model.double()
    assert mixture.modules[NAME].native is None
    exact, _ = run(model, mixture, x.double(), REQUESTS)
    torch.testing.assert_close(exact.float(), want, rtol=1e-4, atol=1e-5)
    model.float()
    assert mixture.modules[NAME].native is not None
    torch.testing.assert_close(run(model, mixture, x, REQUESTS)[0], want, rtol=1e-4, atol=1e-5)


def test_a_copy_of_a_module_reads_its_own_slots(kernel: Kernel) -> None:
    _, mixture = make_mixture(kernel)
    module = mixture.modules[NAME]
    twin = copy.deepcopy(module)
    module.clear(2)
    form = mixture.step(build_step_plan([mix([2])], [1])).form
    assert isinstance(form, NativeForm)
    x = torch.randn(1, D)
    updates = []
    for owner in (module, twin):
        assert owner.native is not None
        updates.append(torch.zeros(1, WIDTH))
        form.add_short(x, updates[-1], owner.native)
    assert not updates[0].any()
    torch.testing.assert_close(updates[1], x @ twin.lora_a[2].T @ twin.lora_b[2])


def test_strided_tokens_are_computed_all_the_same(kernel: Kernel) -> None:
    model, mixture = make_mixture(kernel)
    x = tokens(REQUESTS)
    strided = x.T.contiguous().T
    assert not strided.is_contiguous()
    want, _ = run(model, mixture, x, REQUESTS)
    torch.testing.assert_close(run(model, mixture, strided, REQUESTS)[0], want, rtol=1e-4, atol=1e-5)


def test_gradients_flow_as_they_do_without_a_kernel(kernel: Kernel) -> None:
    gradients = []
    for model, mixture in (make_mixture(kernel), make_mixture(None)):
        router = mixture.trainable_router()
        x = tokens(REQUESTS).requires_grad_()
        y, _ = run(model, mixture, x, REQUESTS)
        gradients.append(torch.autograd.grad(y.square().sum(), [x, *router]))
        assert all(g.abs().max() > 0 for g in gradients[-1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_gradients_of_the_input_alone_flow_too(kernel: Kernel) -> None:
    gradients = []
    for model, mixture in (make_mixture(kernel), make_mixture(None)):
        x = tokens(REQUESTS).requires_grad_()
        gradients.append(torch.autograd.grad(run(model, mixture, x, REQUESTS)[0].square().sum(), x))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(("num_threads", "limit"), [(1, 256), (2, 256), (4, 128), (16, 32), (128, 8)])
def test_more_threads_leave_more_to_the_gemms(num_threads: int, limit: int) -> None:
    assert max_segment_tokens(num_threads) == limit


def test_without_numba_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with caplog.at_level(logging.WARNING):
        assert load_kernel.__wrapped__() is None
    assert "torch operations" in caplog.text


def test_where_nothing_can_be_cached_the_kernel_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    cfunc = numba.cfunc

    def refuse_cache(*args: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return cfunc(*args, **options)

    monkeypatch.setattr(numba, "cfunc", refuse_cache)
    compiled = load_kernel.__wrapped__()
    x = tokens(REQUESTS)
    got, _ = run(*make_mixture(compiled), x, REQUESTS)
    torch.testing.assert_close(got, run(*make_mixture(None), x, REQUESTS)[0], rtol=1e-4, atol=1e-5)
