"""The engine on a CUDA device answers as it does on the CPU (float32)."""

from __future__ import annotations

import random

import pytest
import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.executor.sequence import Sequence
from support.engine_world import make_engine, random_adapter, tiny_llama

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: nothing of this file was tested"),
]


def sequences() -> list[Sequence]:
    r = random.Random(3)
    out = []
    for i in range(24):
        experts = tuple(Expert(f"a{j}", similarity=r.random()) for j in r.sample(range(8), r.randint(0, 3)))
        composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1)
        out.append(
            Sequence(str(i), [r.randrange(3, 97) for _ in range(r.choice([1, 5, 20]))], 10, experts, composition)
        )
    return out


def test_tokens_are_those_of_the_cpu() -> None:
    answers = []
    for device in ("cpu", "cuda"):
        model = tiny_llama()
        adapters = {f"a{i}": random_adapter(model, i, [2, 4, 8][i % 3], ("_proj",)) for i in range(8)}
        batch = sequences()
        make_engine(model.to(device), adapters).run(*batch)
        answers.append([sequence.tokens for sequence in batch])
    same = sum(a == b for a, b in zip(*answers, strict=True))
    assert same >= 23, f"{same} of 24 answers are equal; one may differ by a tie"
