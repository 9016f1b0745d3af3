"""Quantised bases: adapters are added to a module's output, so any one with in and out features will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ramole.core.composition import Composition, Expert
from ramole.core.settings import ExecutorSettings, PlainSettings
from ramole.executor.loading import load_model, plan_of
from ramole.executor.sequence import Sequence
from ramole.lora.weights import LoraPair
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.mixture.slots import ModuleSlots, SlotShape
from ramole.mixture.torch_form import TorchForm
from support.engine_world import make_engine, random_adapter, random_router, tiny_llama


class Int8Linear(nn.Module):
    """y = (W_int8 * scale) x + b, per output row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.float() * self.scale).to(x.dtype).T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_base_answers_as_the_same_weights_in_float(dtype: torch.dtype) -> None:
    quantised, plain = tiny_llama(), tiny_llama()
    adapters = {f"a{i}": random_adapter(plain, i, 4, ("_proj",)) for i in range(4)}
    router = random_router(plain)
    for name, module in list(plain.named_modules()):
        if name.endswith("_proj") and isinstance(module, nn.Linear):
            int8 = Int8Linear(module)
            quantised.set_submodule(name, int8)
            module.weight.data = int8.weight.float() * int8.scale
    for model in (quantised, plain):
        for parameter in model.parameters():  # neither scales nor angles
            parameter.data = parameter.data.to(dtype)
    answers = []
    for model in (quantised, plain):
        sequences = [Sequence(str(i), [5 + i, 6, 7], 8, tuple(Expert(f"a{j}") for j in range(i))) for i in range(4)]
        make_engine(model, adapters, router=router).run(*sequences)
        answers.append([sequence.tokens for sequence in sequences])
    assert answers[0] == answers[1]
    assert len({tuple(tokens) for tokens in answers[0]}) > 1


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 3)])
def test_activations_may_have_another_dtype_than_the_adapters(lengths: tuple[int, ...]) -> None:
    module = ModuleSlots(0, (8, 6), SlotShape(4, 2, 1), dtype=torch.float32, device=torch.device("cpu"))
    g = torch.Generator().manual_seed(0)
    for slot in (1, 2, 3):
        module.write(slot, LoraPair(torch.randn(2, 8, generator=g), torch.randn(6, 2, generator=g)))
    mixtures = [RequestMixture.build(Composition(), [Expert("a")], [slot]) for slot in range(1, len(lengths) + 1)]
    plan = build_step_plan(mixtures, list(lengths))
    x = torch.randn(sum(lengths), 8, generator=g).bfloat16()
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        y = torch.zeros(sum(lengths), 6, dtype=dtype)
        TorchForm(plan, 1, module.lora_a.device).add(x.to(dtype), y, module)
        found.append(y)
    assert found[0].abs().sum() > 0
    assert torch.equal(found[0], found[1].bfloat16())


@pytest.fixture(scope="module", params=[{"load_in_8bit": True}, {"load_in_4bit": True}], ids=["int8", "4 bits"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose config says how it is quantised, and nothing else does."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: no quantised checkpoint was tested")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("quantised")
    tiny_llama().save_pretrained(plain)  # type: ignore[operator]
    model = AutoModelForCausalLM.from_pretrained(
        plain, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(**request.param), device_map="cpu"
    )
    model.save_pretrained(folder)
    return folder


def test_a_quantised_checkpoint_is_loaded_by_its_config_and_takes_adapters(checkpoint: Path) -> None:
    """Each request alone answers as in a batch, and adapters change what it says."""
    plan = plan_of(PlainSettings(base_model=str(checkpoint), executor=ExecutorSettings(router="", dtype="bfloat16")))
    assert plan.parts[0].detail.endswith("quantised: bitsandbytes")
    adapters = {f"a{i}": random_adapter(tiny_llama(), i, 4, ("_proj",)) for i in range(3)}
    prompts: list[tuple[list[int], tuple[Expert, ...]]] = [
        ([5 + i, 6, 7, 8 * i], tuple(Expert(f"a{j}") for j in range(i))) for i in range(4)
    ]

    def answers(chosen: range) -> list[list[int]]:
        model: Any = load_model(str(checkpoint), dtype=plan.sizes.dtype, device="cpu")
        assert not isinstance(model.model.layers[0].mlp.up_proj.weight, nn.Parameter) or not (
            model.model.layers[0].mlp.up_proj.weight.dtype.is_floating_point
        )
        sequences = [Sequence(str(i), prompts[i][0], 8, prompts[i][1]) for i in chosen]
        make_engine(model, adapters).run(*sequences)
        return [sequence.tokens for sequence in sequences]

    together = answers(range(4))
    assert [answers(range(i, i + 1))[0] for i in range(4)] == together
    assert len({tuple(tokens) for tokens in together}) == 4
