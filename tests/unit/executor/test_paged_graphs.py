"""Decode steps as graphs, without a GPU: what is recorded computes again from the same buffers when it is replayed."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ramole.core.composition import Expert
from ramole.executor.block_pool import NULL, SINK
from ramole.executor.sequence import Sequence
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Layout
from ramole.mixture.torch_form import torch_layout
from support.engine_world import World, make_engine, random_adapter, tiny_llama

CPU = torch.device("cpu")


class Recording:
    """Stands for a CUDA graph: its tensors keep their places."""

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self._forward = forward
        self.logits = forward()

    def replay(self) -> None:
        self.logits.copy_(self._forward())


def make(monkeypatch: pytest.MonkeyPatch, layout: Layout, *, graphs: bool, num_blocks: int | None = None) -> World:
    pytest.importorskip("triton", reason="triton is not installed: GRAPHS ARE NOT TESTED")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", SimpleNamespace)
    model = tiny_llama()
    adapters = {f"a{i}": random_adapter(model, i, 2 * i + 2, ("q_proj",)) for i in range(3)}
    world = make_engine(model, adapters, max_rows=6, layout=layout, num_blocks=num_blocks)
    world.engine._eos = frozenset()
    if graphs:
        from ramole.executor.graphs import DecodeGraphs

        class Recorded(DecodeGraphs):
            """Graphs of a device that records nothing."""

            def _record(self, forward: Callable[[], torch.Tensor], device: torch.device) -> Any:
                recording = Recording(forward)
                return recording, recording.logits

        runner = world.engine._runner
        runner._graphs = Recorded(model, runner.mixture, runner.kv, max_rows=6)
    return world


@pytest.mark.parametrize("num_blocks", [None, 8])
def test_graphs_change_no_token(monkeypatch: pytest.MonkeyPatch, num_blocks: int | None) -> None:
    """Sizes are padded in rows and blocks; sequences leave, join, and with few blocks are pre-empted."""
    r = random.Random(3)
    drawn = [([r.randrange(3, 97)] * r.choice([1, 5, 20]), r.randint(3, 60)) for _ in range(10)]
    want, got = ([Sequence(str(i), prompt, count) for i, (prompt, count) in enumerate(drawn)] for _ in range(2))
    layout = torch_layout(CPU)
    make(monkeypatch, layout, graphs=False).run(*want)
    world = make(monkeypatch, layout, graphs=True, num_blocks=num_blocks)
    world.run(*got)
    assert [sequence.tokens for sequence in got] == [sequence.tokens for sequence in want]
    captured = world.engine._runner._graphs._captured  # type: ignore[union-attr]
    assert {size.num_rows for size in captured} >= {1, 2, 4}
    assert sum(sequence.num_preempted for sequence in got) > 0 or num_blocks is None
    pool, kv = world.engine._scheduler.pool, world.engine._runner.kv
    assert pool.num_free == kv.num_blocks
    assert not kv.keys[0][NULL].any(), "what tables are filled up with stays zero"
    assert kv.keys[0][SINK].any(), "rows that are left over write where nobody reads"
    assert not kv.keys[0][SINK + 1 :].any()


def test_rows_that_are_left_over_have_no_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    from ramole.mixture.triton_form import triton_layout

    def sequences() -> list[Sequence]:
        own = [("a0",), (), ("a1", "a2")]
        return [Sequence(str(i), [5 + i], 4 + i, tuple(map(Expert, names))) for i, names in enumerate(own)]

    want, got = sequences(), sequences()
    make(monkeypatch, torch_layout(CPU), graphs=False).run(*want)
    make(monkeypatch, triton_layout(CPU, SlotShape(9, 8, 4)), graphs=True).run(*got)
    assert [sequence.tokens for sequence in got] == [sequence.tokens for sequence in want]
    for own, other in zip(got, want, strict=True):
        assert own.mean_weights()[0] == pytest.approx(other.mean_weights()[0], abs=1e-4)
