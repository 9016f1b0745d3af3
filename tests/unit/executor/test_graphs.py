"""Decode steps as graphs, without a GPU: what is recorded computes again from the same buffers when it is replayed."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.executor.graphs import DecodeGraphs, Replay
from ramole.executor.sequence import Sequence
from ramole.mixture.slots import SlotShape
from support.engine_world import World, make_engine, random_adapter, tiny_llama

SHAPE = SlotShape(num_slots=9, slot_rank=8, router_rank=4)


class Recording:
    """Stands for a CUDA graph: its tensors keep their places."""

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self._forward = forward
        self.logits = forward()

    def replay(self) -> None:
        self.logits.copy_(self._forward())


class Recorded(DecodeGraphs):
    """Graphs of a device that records nothing."""

    def _record(self, forward: Callable[[], torch.Tensor], device: torch.device) -> tuple[Replay, torch.Tensor]:
        recording = Recording(forward)
        return recording, recording.logits


def sequences() -> list[Sequence]:
    r = random.Random(3)
    out = []
    for i in range(10):
        experts = tuple(Expert(f"a{j}", similarity=r.random()) for j in r.sample(range(6), r.randint(0, 3)))
        composition = Composition(r.choice(list(Weighting)), r.choice(list(Merge)), tau=0.1)
        prompt = [r.randrange(3, 97) for _ in range(r.choice([1, 5, 20]))]
        out.append(Sequence(str(i), prompt, r.randint(3, 25), experts, composition))
    return out


def make(monkeypatch: pytest.MonkeyPatch, *, graphs: bool, **memory: int | None) -> World:
    pytest.importorskip("triton", reason="triton is not installed: GRAPHS ARE NOT TESTED")
    from ramole.mixture.triton_form import triton_layout

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", SimpleNamespace)
    model = tiny_llama()
    adapters = {f"a{i}": random_adapter(model, i, [2, 4, 8][i % 3], ("q_proj", "v_proj")) for i in range(6)}
    world = make_engine(model, adapters, max_rows=6, layout=triton_layout(torch.device("cpu"), SHAPE), **memory)  # type: ignore[arg-type]
    world.engine._eos = frozenset()
    runner = world.engine._runner
    if graphs:
        runner._graphs = Recorded(model, runner.mixture, runner.kv, max_rows=6)
    return world


@pytest.mark.parametrize("num_blocks", [None, 9])
def test_graphs_change_no_token(monkeypatch: pytest.MonkeyPatch, num_blocks: int | None) -> None:
    """Sizes are padded in rows, blocks and experts; sequences leave, join, and with few blocks are pre-empted."""
    want, got = sequences(), sequences()
    make(monkeypatch, graphs=False).run(*want)
    world = make(monkeypatch, graphs=True, num_blocks=num_blocks)
    world.run(*got)
    assert [sequence.tokens for sequence in got] == [sequence.tokens for sequence in want]
    for own, other in zip(got, want, strict=True):
        assert own.mean_weights()[0] == pytest.approx(other.mean_weights()[0], abs=1e-4)
    captured = world.engine._runner._graphs._captured  # type: ignore[union-attr]
    assert {size.num_rows for size in captured} >= {1, 2, 4, 6}
    assert sum(sequence.num_preempted for sequence in got) > 0 or num_blocks is None
    pool, kv = world.engine._scheduler.pool, world.engine._runner.kv
    assert pool.num_free == kv.num_blocks
    assert not kv.keys[0][0].any(), "the block that tables are filled up with stays zero"
    assert kv.keys[0][1].any(), "rows that are left over write where nobody reads"
    assert not kv.keys[0][2:].any()
