"""The engine on a CUDA device: the same answers as on the CPU, with graphs and without, alone and in a batch."""

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

TARGETS = (("q_proj", "v_proj"), ("_proj",), ("down_proj",))


def sequences() -> list[Sequence]:
    """24 requests of every composition with prompts from one token to several chunks: they end at different times."""
    r = random.Random(3)
    out = []
    for i in range(24):
        experts = tuple(Expert(f"a{j}", similarity=r.random()) for j in r.sample(range(8), r.randint(0, 3)))
        composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1)
        prompt = [r.randrange(3, 97) for _ in range(r.choice([1, 5, 20, 70]))]
        out.append(Sequence(str(i), prompt, r.randint(4, 16), experts, composition))
    return out


def answers(
    device: str, *, uses_graphs: bool = True, one_by_one: bool = False
) -> tuple[list[list[int]], list[Sequence]]:
    model = tiny_llama()
    adapters = {f"a{i}": random_adapter(model, i, [2, 4, 8][i % 3], TARGETS[i % 3]) for i in range(8)}
    world = make_engine(model.to(device), adapters, uses_graphs=uses_graphs)
    batch = sequences()
    if one_by_one:
        for sequence in batch:
            world.run(sequence)
    else:
        world.run(*batch)
    return [sequence.tokens for sequence in batch], batch


def num_equal(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def test_tokens_and_usage_are_those_of_the_cpu() -> None:
    want, on_cpu = answers("cpu")
    got, on_gpu = answers("cuda")
    assert num_equal(got, want) >= 23, "one of 24 may differ by a tie"
    for mine, theirs in zip(on_gpu, on_cpu, strict=True):
        if mine.tokens == theirs.tokens:
            assert mine.mean_weights()[0] == pytest.approx(theirs.mean_weights()[0], abs=1e-4)


def test_graphs_change_no_token() -> None:
    assert num_equal(answers("cuda")[0], answers("cuda", uses_graphs=False)[0]) >= 23


def test_a_request_alone_equals_the_request_in_a_batch() -> None:
    assert num_equal(answers("cuda")[0], answers("cuda", one_by_one=True)[0]) >= 23


def test_the_same_run_gives_the_same_numbers() -> None:
    first, second = answers("cuda")[0], answers("cuda")[0]
    assert first == second
