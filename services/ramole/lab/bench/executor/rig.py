"""An engine on a bench: adapters in memory, arrivals by step number, every step timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from ramole.core.composition import PRESETS, Expert
from ramole.core.errors import Internal
from ramole.executor.block_pool import BLOCK
from ramole.executor.engine import Engine
from ramole.executor.loads import LoadAdapter
from ramole.executor.runner import ModelRunner
from ramole.executor.sequence import Sequence as EngineSequence
from ramole.lab.bench.executor.world import Request
from ramole.lab.bench.timing import clock
from ramole.lora.weights import AdapterWeights
from ramole.mixture.step import Layout

TOKEN_BUDGET = 512

Tokens = dict[str, list[int]]


def from_memory(adapters: Mapping[str, AdapterWeights]) -> LoadAdapter:
    """A loader that is done at once."""

    def load(name: str) -> Future[AdapterWeights]:
        future: Future[AdapterWeights] = Future()
        future.set_result(adapters[name])
        return future

    return load


def make_sequence(request: Request, new_tokens: int) -> EngineSequence:
    """Greedy."""
    preset = PRESETS[request.preset or ("ramole" if len(request.adapters) > 1 else "selection")]
    experts = tuple(Expert(name) for name in request.adapters)
    return EngineSequence(request.id, request.prompt, new_tokens, experts, preset)


@dataclass(slots=True)
class Rig:
    """One engine and its runner."""

    runner: ModelRunner
    engine: Engine

    @classmethod
    def build(
        cls,
        model: torch.nn.Module,
        load: LoadAdapter,
        *,
        num_slots: int,
        slot_rank: int,
        max_rows: int,
        max_len: int,
        router: AdapterWeights | None,
        layout: Layout | None = None,
        make: type[ModelRunner] = ModelRunner,
        num_blocks: int | None = None,
    ) -> Rig:
        """`num_slots` counts usable slots, without the empty one."""
        runner = make(
            model,
            num_slots=num_slots + 1,
            slot_rank=slot_rank,
            max_rows=max_rows,
            max_len=max_len,
            num_blocks=num_blocks,
            router=router,
            layout=layout,
        )
        engine = Engine(
            runner,
            load=load,
            eos_token_ids=(),
            num_slots=num_slots + 1,
            max_rows=max_rows,
            token_budget=TOKEN_BUDGET,
        )
        return cls(runner, engine)

    def run(self, requests: Sequence[Request], new_tokens: int, arrivals_per_step: int = 0) -> Tokens:
        """Runs all requests to their end."""
        job = Job(self, requests, new_tokens, arrivals_per_step)
        while job.step():
            pass
        return job.tokens


@dataclass(slots=True)
class Job:
    """Requests on their way through one rig. Seconds are those of its own steps.

    Attributes:
        kv_bytes, kv_tokens: of KV memory that requests held after each step, and tokens in it, both summed up.
    """

    rig: Rig
    requests: Sequence[Request]
    new_tokens: int
    arrivals_per_step: int = 0
    tokens: Tokens = field(default_factory=dict)
    seconds: float = 0.0
    kv_bytes: int = 0
    kv_tokens: int = 0
    num_arrived: int = 0
    first_token_s: dict[str, float] = field(default_factory=dict)
    _arrived_s: dict[str, float] = field(default_factory=dict)

    def step(self) -> bool:
        """Lets the next requests arrive and runs one step of the engine, timed. False when all is done."""
        engine, device = self.rig.engine, self.rig.runner.device
        arriving = self.requests[self.num_arrived :][: self.arrivals_per_step or None]
        if not arriving and not engine.has_work:
            return False
        start_s = clock(device)
        for request in arriving:
            self._arrived_s[request.id] = self.seconds
            engine.add(make_sequence(request, self.new_tokens))
        updates = engine.step()
        self.seconds += clock(device) - start_s
        self.num_arrived += len(arriving)
        memory = engine.memory
        self.kv_bytes += memory.num_used_blocks * BLOCK * self.rig.runner.kv.bytes_per_token
        self.kv_tokens += memory.num_tokens
        for update in updates:
            if update.error is not None or update.sampled is None:
                raise Internal(f"request {update.sequence.id} failed: {update.error}")
            id_ = update.sequence.id
            self.first_token_s.setdefault(id_, self.seconds - self._arrived_s[id_])
            self.tokens.setdefault(id_, []).append(update.sampled.token)
        return True


def lockstep(jobs: Mapping[str, Job], *, turn: int = 0) -> None:
    """Runs jobs on different rigs to their end, one step of each in turn: what disturbs one disturbs all."""
    names = list(jobs)
    first = turn % len(names)
    running = [jobs[name] for name in names[first:] + names[:first]]
    while running:
        running = [job for job in running if job.step()]
