"""Decode steps as CUDA graphs: a step of many small kernels is launched as one.

A graph is bound to addresses and shapes, so a step is padded to the next of a few sizes: its block tables in both
directions. The rows that are left over compute something that nobody reads, from blocks of zeros, and write it to a
block that is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ramole.executor import attention
from ramole.executor.batch import Batch
from ramole.executor.block_pool import BLOCK, NULL, SINK, blocks_for
from ramole.executor.block_tables import BlockTables
from ramole.executor.kv_blocks import KvBlocks
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import IntArray, StepPlan
from ramole.mixture.step import Step
from ramole.mixture.triton_form import TritonForm

MIN_BLOCKS = 8
MAX_GRAPHS = 64
"""At once; the one that was made first makes room. Each keeps its logits and the device's record of its launches."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a graph was captured for: rows, blocks that attention reads of each, experts (0 = nobody uses adapters)."""

    num_rows: int
    width: int
    num_experts: int


class Graph(Protocol):
    """What was recorded once and can run again."""

    def replay(self) -> None:
        """Computes it once more from what its inputs hold now."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph with the tensors that it reads and writes.

    Attributes:
        inputs: of each row the token, its position, where its keys and values go, and its block table: [rows, 3 + W].
        logits: [rows, V].
    """

    graph: Graph
    inputs: torch.Tensor
    form: TritonForm | None
    logits: torch.Tensor


class DecodeGraphs:
    """Captures a size when a step first needs it, which takes about a second."""

    def __init__(self, model: torch.nn.Module, mixture: Mixture, kv: KvBlocks, *, max_rows: int) -> None:
        self._model = model
        self._mixture = mixture
        self._kv = kv
        self._max_rows = max_rows
        self._captured: dict[Size, Captured] = {}
        self._num_modules = 0
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, batch: Batch) -> tuple[torch.Tensor, Step | None]:
        """One decode step.

        Returns:
            Logits [b, V], valid until the next run, and the step (None when nobody uses adapters).
        """
        if self._num_modules != len(self._mixture.modules):
            # A module that was wrapped since is missing in every graph. A pool without graphs cannot be used again.
            self._captured.clear()
            self._pool = torch.cuda.graph_pool_handle()
            self._num_modules = len(self._mixture.modules)
        plan, n = batch.plan, batch.plan.num_requests
        batch.tables.update()
        size = self._size(plan, batch.tables.width)
        inputs = _inputs(size, [sequence.next_tokens(1)[0] for sequence in batch.sequences], batch.tables)
        captured = self._captured.get(size)
        if captured is None:
            if len(self._captured) >= MAX_GRAPHS:
                del self._captured[next(iter(self._captured))]
            captured = self._captured[size] = self._capture(size, inputs, plan)
        else:
            captured.inputs.copy_(torch.from_numpy(inputs))
            if captured.form is not None:
                captured.form.fill(plan)
        captured.graph.replay()
        return captured.logits[:n], None if captured.form is None else Step(plan, captured.form)

    def _size(self, plan: StepPlan, width: int) -> Size:
        k = plan.slots.shape[1]
        return Size(
            min(_power_of_2(plan.num_requests), self._max_rows),
            min(max(_power_of_2(width), MIN_BLOCKS), blocks_for(self._kv.max_len)),
            _power_of_2(k) if k else 0,
        )

    def _capture(self, size: Size, inputs: IntArray, plan: StepPlan) -> Captured:
        device = self._kv.keys[0].device
        place = torch.from_numpy(inputs).to(device)
        ids, positions, places, tables = place[:, 0], place[:, 1], place[:, 2], place[:, 3:]
        form = None
        if size.num_experts:
            form = TritonForm(
                device,
                self._mixture.shape,
                num_modules=self._num_modules,
                num_tokens=size.num_rows,
                num_experts=size.num_experts,
                num_narrow=size.num_rows,
                num_wide=0,
            )
            form.fill(plan)

        def forward() -> torch.Tensor:
            tokens = attention.PackedTokens(self._kv, attention.GatheredDecode(self._kv, tables, positions, places))
            step = None if form is None else Step(plan, form)
            with attention.packed(tokens), self._mixture.running_step(step):
                out: torch.Tensor = self._model(
                    input_ids=ids[None], position_ids=positions[None], use_cache=False
                ).logits[0]
                return out

        graph, logits = self._record(forward, device)
        return Captured(graph, place, form, logits)

    def _record(self, forward: Callable[[], torch.Tensor], device: torch.device) -> tuple[Graph, torch.Tensor]:
        """A graph of one call, and where it leaves the result."""
        # Libraries set themselves up at the first run, which a graph must not record. It computes this very step, so
        # what it writes to the cache is right.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            forward()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = forward()
        return graph, logits


def _inputs(size: Size, ids: list[int], tables: BlockTables) -> IntArray:
    """What a graph of this size reads: see `Captured`. The rows that are left over read zeros and write to the sink."""
    n, width = len(ids), tables.width
    inputs = np.full((size.num_rows, 3 + size.width), NULL, np.int64)
    inputs[:, :3] = 0, 0, SINK * BLOCK
    inputs[:n, 0], inputs[:n, 1], inputs[:n, 2] = ids, tables.positions, tables.places()
    inputs[:n, 3 : 3 + width] = tables.array[:, :width]
    return inputs


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
