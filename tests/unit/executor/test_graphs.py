"""Which decode steps become graphs and which graph serves a step, with a recorder that computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from ramole.core.errors import WrongState
from ramole.executor import graphs
from ramole.executor.graphs import DecodeGraphs
from ramole.executor.positions import has_moving_rope, max_positions
from ramole.executor.runner import ModelRunner
from ramole.executor.sequence import Sequence
from support.engine_world import World, make_engine, random_adapter, tiny_llama


class Recorded:
    """Runs the call again, into the same place."""

    def __init__(self, forward: Callable[[], torch.Tensor], pool: object) -> None:
        self._forward, self.pool = forward, pool
        self.logits = forward().clone()

    def replay(self) -> None:
        self.logits.copy_(self._forward())


class CpuGraphs(DecodeGraphs):
    """As on a GPU, but that graphs are recorded in Python."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner.model, runner.mixture, runner.kv, max_rows=4)
        self.recorded: list[Recorded] = []

    def _record(self, forward: Callable[[], torch.Tensor], device: torch.device) -> tuple[Recorded, torch.Tensor]:
        self.recorded.append(Recorded(forward, self._pool))
        return self.recorded[-1], self.recorded[-1].logits


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> tuple[World, CpuGraphs]:
    pools = iter(range(100))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    model = tiny_llama()
    world = make_engine(model, {"a": random_adapter(model, 1, 4, ("q_proj",))})
    world.engine._runner._graphs = found = CpuGraphs(world.engine._runner)
    return world, found


def sequences(count: int) -> list[Sequence]:
    return [Sequence(str(i), [5 + i, 6, 7 + i][: 1 + i % 3], 6 + i) for i in range(count)]


def test_graphs_answer_as_steps_without_them(world: tuple[World, CpuGraphs]) -> None:
    (engine, found), plain = world, make_engine(tiny_llama(), {})
    mine, theirs = sequences(4), sequences(4)
    engine.run(*mine)
    plain.run(*theirs)
    assert [sequence.tokens for sequence in mine] == [sequence.tokens for sequence in theirs]
    assert 1 <= len(found.recorded) <= 3, "1, 2 and 4 rows"


def test_a_module_that_was_wrapped_since_begins_a_new_pool(world: tuple[World, CpuGraphs]) -> None:
    engine, found = world
    engine.run(*sequences(1))
    engine.engine._runner.mixture.wrap("model.layers.0.mlp.up_proj")
    engine.run(*sequences(1))
    first, second = found.recorded
    assert first.pool != second.pool
    assert len(found._captured) == 1, "what was recorded before is gone"


def test_their_number_is_bounded(world: tuple[World, CpuGraphs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 1)
    engine, found = world
    mine, theirs = sequences(4), sequences(4)
    engine.run(*mine)
    assert len(found._captured) == 1
    make_engine(tiny_llama(), {}).run(*theirs)
    assert [sequence.tokens for sequence in mine] == [sequence.tokens for sequence in theirs]


def phi3(rope: dict[str, Any]) -> Phi3Config:
    return Phi3Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, rope_parameters={"rope_theta": 10000.0, **rope},
    )  # fmt: skip


LONG = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rope", "is_moving", "length"),
    [({"rope_type": "default"}, False, 64), (LONG, True, 16)],
)
def test_angles_that_move_with_the_batch_are_not_let(rope: dict[str, Any], is_moving: bool, length: int) -> None:
    """A long request beside it would change a short one's answer: so long ones are refused, and none is captured."""
    config = phi3(rope)
    assert has_moving_rope(config) is is_moving
    assert max_positions(config) == length
    model = Phi3ForCausalLM(config)
    with pytest.raises(WrongState, match=f"knows {length} positions"):
        ModelRunner(model, num_slots=4, slot_rank=4, max_rows=2, max_len=length + 1)
    ModelRunner(model, num_slots=4, slot_rank=4, max_rows=2, max_len=length)


def test_of_several_kinds_of_layers_the_shortest_counts() -> None:
    ropes = {"full": LONG, "sliding": {"rope_type": "default"}}
    config = SimpleNamespace(max_position_embeddings=64, rope_parameters=ropes)
    assert has_moving_rope(config)
    assert max_positions(config) == 16
