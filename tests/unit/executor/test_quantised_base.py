"""A weight-only int8 base: adapters are added to its output, so any module with in and out features will do."""

from __future__ import annotations

import torch
from torch import nn

from ramole.core.composition import Expert
from ramole.executor.sequence import Sequence
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
        return x @ (self.weight.float() * self.scale).T


def test_an_int8_base_answers_as_the_same_weights_in_float() -> None:
    quantised, plain = tiny_llama(), tiny_llama()
    adapters = {f"a{i}": random_adapter(plain, i, 4, ("_proj",)) for i in range(4)}
    router = random_router(plain)
    for name, module in list(plain.named_modules()):
        if name.endswith("_proj") and isinstance(module, nn.Linear):
            int8 = Int8Linear(module)
            quantised.set_submodule(name, int8)
            module.weight.data = int8.weight.float() * int8.scale
    answers = []
    for model in (quantised, plain):
        sequences = [Sequence(str(i), [5 + i, 6, 7], 8, tuple(Expert(f"a{j}") for j in range(i))) for i in range(4)]
        make_engine(model, adapters, router=router).run(*sequences)
        answers.append([sequence.tokens for sequence in sequences])
    assert answers[0] == answers[1]
    assert len({tuple(tokens) for tokens in answers[0]}) > 1
