"""Decode steps as CUDA graphs: a step of many small kernels is launched as one.

A graph is bound to addresses and shapes, so a step is padded to the next of a few sizes, and token i of a captured step
always belongs to KV row i. Rows that do not decode in a step compute something that nobody reads: what they write to
the cache goes where their own next token will overwrite it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ramole.executor import attention
from ramole.executor.kv_rows import KvRows
from ramole.executor.sequence import Sequence, row_of
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import IntArray, StepPlan
from ramole.mixture.step import Step
from ramole.mixture.triton_form import TritonForm

MIN_LEN = 128
MAX_GRAPHS = 64
"""At once; the one that was made first makes room. Each keeps its logits and the device's record of its launches."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a graph was captured for: rows, cached tokens that attention reads, experts (0 = nobody uses adapters)."""

    num_rows: int
    longest: int
    num_experts: int


class Graph(Protocol):
    """What was recorded once and can run again."""

    def replay(self) -> None:
        """Runs it."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph with the tensors that it reads and writes: inputs [2, rows] (token ids, positions), logits [rows, V]."""

    graph: Graph
    inputs: torch.Tensor
    form: TritonForm | None
    logits: torch.Tensor


class DecodeGraphs:
    """Captures a size when a step first needs it, which takes about a second."""

    def __init__(self, model: torch.nn.Module, mixture: Mixture, kv: KvRows) -> None:
        self._model = model
        self._mixture = mixture
        self._kv = kv
        self._captured: dict[Size, Captured] = {}
        self._num_modules = 0
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, plan: StepPlan, sequences: Ordered[Sequence]) -> tuple[torch.Tensor, Step | None]:
        """One decode step.

        Returns:
            Logits [b, V], valid until the next run, and the step (None when nobody uses adapters).
        """
        if self._num_modules != len(self._mixture.modules):
            # A module that was wrapped since is missing in every graph.
            self._captured.clear()
            # A pool ends with the last of its graphs; capturing into what is left of it fails.
            self._pool = torch.cuda.graph_pool_handle()
            self._num_modules = len(self._mixture.modules)
        rows = np.array([row_of(sequence) for sequence in sequences])
        size = self._size(plan, int(rows.max()) + 1, max(sequence.num_cached for sequence in sequences) + 1)
        inputs = np.zeros((2, size.num_rows), np.int64)
        inputs[1] = np.minimum(self._kv.lengths[: size.num_rows], self._kv.max_len - 1)
        inputs[0, rows] = [sequence.next_tokens(1)[0] for sequence in sequences]
        inputs[1, rows] = [sequence.num_cached for sequence in sequences]
        captured = self._captured.get(size)
        if captured is None:
            if len(self._captured) >= MAX_GRAPHS:
                del self._captured[next(iter(self._captured))]
            captured = self._captured[size] = self._capture(size, inputs, plan, rows)
        else:
            captured.inputs.copy_(torch.from_numpy(inputs))
            if captured.form is not None:
                captured.form.fill(plan, at=rows)
        captured.graph.replay()
        logits = captured.logits[torch.from_numpy(rows).to(captured.logits.device)]
        return logits, None if captured.form is None else Step(plan, captured.form)

    def _size(self, plan: StepPlan, num_rows: int, longest: int) -> Size:
        k = plan.slots.shape[1]
        return Size(
            min(_power_of_2(num_rows), len(self._kv.lengths)),
            min(max(_power_of_2(longest), MIN_LEN), self._kv.max_len),
            _power_of_2(k) if k else 0,
        )

    def _capture(self, size: Size, inputs: IntArray, plan: StepPlan, rows: IntArray) -> Captured:
        device = self._kv.keys[0].device
        place = torch.from_numpy(inputs).to(device)
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
            form.fill(plan, at=rows)
        every_row = torch.arange(size.num_rows, device=device)

        def forward() -> torch.Tensor:
            tokens = attention.PackedTokens(
                kv=self._kv, rows=every_row, positions=place[1], segments=(), longest=size.longest, is_prefix=True
            )
            step = None if form is None else Step(plan, form)
            with attention.packed(tokens), self._mixture.running_step(step):
                out: torch.Tensor = self._model(input_ids=place[:1], position_ids=place[1:], use_cache=False).logits[0]
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


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
