"""A stream of requests over more adapters than there are slots: what do misses cost until the first token?"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ramole.core.errors import Internal
from ramole.lab.bench.executor.options import SlotCase
from ramole.lab.bench.executor.rig import Rig, Tokens, make_sequence
from ramole.lab.bench.executor.world import Request, make_base, make_prompts, make_router, save_adapters
from ramole.lab.bench.timing import clock
from ramole.lora.files import read_folder
from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights

RESIDENT, HALF = "all_resident", "half_the_slots"


@dataclass(slots=True)
class DiskLoader:
    """Reads PEFT folders on a thread, as the executor's servicer does, and wakes the engine's loop."""

    folders: Mapping[str, Path]
    pool: ThreadPoolExecutor
    wake: threading.Event = field(default_factory=threading.Event)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, name: str) -> Future[AdapterWeights]:
        """Starts one load."""
        future = self.pool.submit(self._read, name)
        future.add_done_callback(lambda _: self.wake.set())
        return future

    def _read(self, name: str) -> AdapterWeights:
        start_s = time.perf_counter()
        weights = read_adapter(*read_folder(self.folders[name]))
        self.seconds.append(time.perf_counter() - start_s)
        return weights


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests and when they arrive, in seconds from the start."""

    requests: Sequence[Request]
    arrivals_s: Sequence[float]

    def serve(self, rig: Rig, wake: threading.Event, new_tokens: int) -> tuple[list[float], Tokens, float]:
        """Feeds the engine in real time.

        Returns:
            Seconds from each arrival to its first token, the tokens, and how long everything took.
        """
        engine = rig.engine
        coming = deque(zip(self.arrivals_s, self.requests, strict=True))
        arrived_s: dict[str, float] = {}
        first_s: list[float] = []
        tokens: Tokens = {}
        start_s = time.perf_counter()
        while coming or engine.has_work:
            while coming and coming[0][0] <= time.perf_counter() - start_s:
                at_s, request = coming.popleft()
                arrived_s[request.id] = start_s + at_s
                engine.add(make_sequence(request, new_tokens))
            wake.clear()  # before the look at the engine: a load that ends in between is not missed
            if not engine.has_work or engine.is_stalled:
                wake.wait(max(0.0, start_s + coming[0][0] - time.perf_counter()) if coming else None)
                continue
            for update in engine.step():
                if update.error is not None or update.sampled is None:
                    raise Internal(f"request {update.sequence.id} failed: {update.error}")
                answer = tokens.setdefault(update.sequence.id, [])
                answer.append(update.sampled.token)
                if len(answer) == 1:
                    first_s.append(time.perf_counter() - arrived_s[update.sequence.id])
        return first_s, tokens, time.perf_counter() - start_s


class SlotBench:
    """One case: the same stream over an engine with room for every adapter and one with room for half of them."""

    def __init__(self, case: SlotCase, device: torch.device, folder: Path, pool: ThreadPoolExecutor) -> None:
        self._case = case
        max_len = case.prompt_tokens[1] + case.new_tokens
        model = make_base(case.base, max_len=max_len, device=device)
        folders = save_adapters(folder, model, case.targets, count=case.num_adapters, rank=case.rank)
        router = make_router(model, case.targets, rank=case.router_rank) if case.k > 1 else None
        self._weights = read_adapter(*read_folder(next(iter(folders.values()))))
        self._loaders = {name: DiskLoader(folders, pool) for name in (RESIDENT, HALF)}
        self._rigs = {
            name: Rig.build(
                make_base(case.base, max_len=max_len, device=device),
                self._loaders[name],
                num_slots=num_slots,
                slot_rank=case.rank,
                max_rows=case.max_rows,
                max_len=max_len,
                router=router,
            )
            for name, num_slots in ((RESIDENT, case.num_adapters), (HALF, case.num_adapters // 2))
        }
        self._requests = _requests(case, list(folders))

    def run(self) -> dict[str, Any]:
        """Finds the rate, then plays the same stream to both engines in turn."""
        case = self._case
        at_once = Stream(self._requests, [0.0] * len(self._requests))
        for name, rig in self._rigs.items():  # fills the slots
            at_once.serve(rig, self._loaders[name].wake, case.new_tokens)
        _, _, busy_s = at_once.serve(self._rigs[RESIDENT], self._loaders[RESIDENT].wake, case.new_tokens)
        rate = case.load * len(self._requests) / busy_s
        for loader in self._loaders.values():
            loader.seconds.clear()
        firsts: dict[str, list[list[float]]] = {name: [] for name in self._rigs}
        tokens: dict[str, Tokens] = {}
        for i in range(case.rounds):
            rng = random.Random(i)
            at_s, arrivals = 0.0, []
            for _ in self._requests:
                at_s += rng.expovariate(rate)
                arrivals.append(at_s)
            for name in list(self._rigs)[:: 1 if i % 2 else -1]:
                stream = Stream(self._requests, arrivals)
                first_s, tokens[name], _ = stream.serve(self._rigs[name], self._loaders[name].wake, case.new_tokens)
                firsts[name].append(first_s)
        return self._report(firsts, tokens, rate)

    def _report(self, firsts: dict[str, list[list[float]]], tokens: dict[str, Tokens], rate: float) -> dict[str, Any]:
        all_of = {name: [s for one in rounds for s in one] for name, rounds in firsts.items()}
        paired = [median(h) / median(r) for h, r in zip(firsts[HALF], firsts[RESIDENT], strict=True)]
        loads = self._loaders[HALF].seconds
        return {
            "name": self._case.name,
            "kind": "slots",
            "case": asdict(self._case),
            "tokens_equal": tokens[RESIDENT] == tokens[HALF],
            "requests_per_s": rate,
            "ttft_ratio": median(paired),
            "ttft": {
                name: {"median_s": median(seconds), "p90_s": quantiles(seconds, n=10)[-1]}
                for name, seconds in all_of.items()
            },
            "loads_per_request": len(loads) / (self._case.rounds * len(self._requests)),
            "load_s": median(loads) if loads else None,
            "slot_write_s": self._slot_write_s(),
            "adapter_bytes": self._weights.num_bytes,
        }

    def _slot_write_s(self) -> float:
        runner = self._rigs[HALF].runner
        seconds = []
        for _ in range(5):
            start_s = clock(runner.device)
            runner.place(1, self._weights)
            seconds.append(clock(runner.device) - start_s)
        return median(seconds)


def _requests(case: SlotCase, names: list[str]) -> list[Request]:
    rng = random.Random(0)
    prompts = make_prompts(case.num_requests, case.prompt_tokens, case.base.vocab_size)
    weights = [1 / (i + 1) if case.is_zipf else 1.0 for i in range(len(names))]
    requests = []
    for i, prompt in enumerate(prompts):
        chosen: dict[str, None] = {}
        while len(chosen) < case.k:
            chosen[rng.choices(names, weights)[0]] = None
        requests.append(Request(str(i), prompt, tuple(chosen)))
    return requests


def run_slot_case(case: SlotCase, device: torch.device) -> dict[str, Any]:
    """Measures one case. `ttft_ratio` is the median time to first token with half the slots over all resident."""
    with TemporaryDirectory(prefix="ramole-bench-") as folder, ThreadPoolExecutor(2) as pool:
        return SlotBench(case, device, Path(folder), pool).run()
