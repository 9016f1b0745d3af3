"""Stage: a whole engine over a base of 8 B random weights: tokens agree, and what steps, prompts and slots cost.

Figures are those of the same engine and batch, with adapters and without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import median
from typing import Any

import torch
from device_clock import synchronize
from records import Records

from ramole.core.composition import PRESETS, Expert
from ramole.core.sampling import Sampling
from ramole.executor.sampler import make_sampler
from ramole.executor.sequence import Sequence
from ramole.lab.bench.executor.options import ALL_LINEAR, BaseSize
from ramole.lab.bench.executor.rig import Rig, from_memory
from ramole.lab.bench.executor.world import make_base, make_pairs, make_prompts, make_router
from ramole.lora.weights import AdapterWeights

ROUTER_RANK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of the world.

    Attributes:
        points: (b, k, p) of decode steps.
        prompt: tokens of a long prompt.
    """

    base: BaseSize
    dtype: torch.dtype
    rank: int
    num_adapters: int
    max_rows: int
    max_len: int
    points: tuple[tuple[int, int, int], ...]
    prompt: int
    num_steps: int


LARGE = Size(
    base=BaseSize(4096, 32, vocab_size=128_256, feed_forward=14_336),
    dtype=torch.bfloat16,
    rank=16,
    num_adapters=96,
    max_rows=64,
    max_len=2304,
    points=((1, 1, 1), (32, 3, 32), (32, 3, 96), (32, 1, 32), (8, 3, 8), (64, 3, 96)),
    prompt=2048,
    num_steps=20,
)
TINY = Size(
    base=BaseSize(64, 2, vocab_size=97),
    dtype=torch.float32,
    rank=4,
    num_adapters=6,
    max_rows=4,
    max_len=96,
    points=((1, 1, 1), (4, 3, 6)),
    prompt=40,
    num_steps=2,
)


class World:
    """One engine whose adapters are all resident in the end."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        model = make_base(size.base, max_len=size.max_len, device=device, dtype=size.dtype)
        distinct = [AdapterWeights(make_pairs(model, ALL_LINEAR, rank=size.rank, seed=i + 1)) for i in range(2)]
        self.adapters = {f"a{i}": distinct[i % 2] for i in range(size.num_adapters)}
        self.rig = Rig.build(
            model,
            from_memory(self.adapters),
            num_slots=size.num_adapters,
            slot_rank=size.rank,
            max_rows=size.max_rows,
            max_len=size.max_len,
            router=make_router(model, ALL_LINEAR, rank=ROUTER_RANK),
        )
        self._ids = count()

    def sequence(self, length: int, new: int, names: Ordered[str], sampling: Sampling | None = None) -> Sequence:
        """A request whose prompt follows from its length."""
        prompt = make_prompts(1, (length, length), self.size.base.vocab_size)[0]
        preset = PRESETS["ramole" if len(names) > 1 else "selection"]
        sampler = make_sampler(sampling, self.device) if sampling else None
        return Sequence(str(next(self._ids)), prompt, new, tuple(map(Expert, names)), preset, sampler=sampler)

    def step(self) -> float:
        """Milliseconds of one step. Raises what failed in it."""
        synchronize(self.device)
        since = time.perf_counter()
        for update in self.rig.engine.step():
            if update.error is not None:
                raise update.error
        synchronize(self.device)
        return 1000 * (time.perf_counter() - since)

    def answer(self, batch: Ordered[Sequence], *, one_by_one: bool = False) -> list[list[int]]:
        """The tokens of all."""
        for sequence in batch:
            self.rig.engine.add(sequence)
            while one_by_one and self.rig.engine.has_work:
                self.step()
        while self.rig.engine.has_work:
            self.step()
        return [list(sequence.tokens) for sequence in batch]

    def decode(self, lengths: Ordered[int], k: int, p: int, sampling: Sampling | None = None) -> dict[str, Any]:
        """A step in which one request of each length decodes."""
        num_steps = self.size.num_steps
        new = min(num_steps + 3 * len(lengths) + 8, self.size.max_len - max(lengths))
        names = [[f"a{(i * k + j) % p}" for j in range(k)] for i in range(len(lengths))]
        batch = [self.sequence(n, new, own, sampling) for n, own in zip(lengths, names, strict=True)]
        for sequence in batch:
            self.rig.engine.add(sequence)
        while any(not sequence.tokens for sequence in batch):
            self.step()
        first = self.step()
        for _ in range(2):
            self.step()
        each = [self.step() for _ in range(num_steps)]
        for sequence in batch:
            self.rig.engine.cancel(sequence.id)
        return {"step_ms": median(each), "worst_ms": max(each), "first_ms": first}

    def prefill(self, length: int, k: int) -> float:
        """Milliseconds to the first token of a prompt."""
        sequence = self.sequence(length, 2, [f"a{j}" for j in range(k)])
        self.rig.engine.add(sequence)
        took = 0.0
        while not sequence.tokens:
            took += self.step()
        self.rig.engine.cancel(sequence.id)
        return took


@contextmanager
def sdpa_of_cudnn(*, is_on: bool) -> Iterator[None]:
    """Lets torch choose cuDNN's attention, or not: an engine's start forbids it."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(is_on)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def tokens_agree(world: World) -> dict[str, Any]:
    """With graphs, eagerly, and each request alone. In bfloat16 ties may fall otherwise."""
    b = world.size.max_rows

    def answers(*, uses_graphs: bool, one_by_one: bool) -> list[list[int]]:
        world.rig.runner.uses_graphs = uses_graphs
        p = world.size.num_adapters
        batch = [world.sequence(5 + 3 * (i % 8), 8, [f"a{(i + j) % p}" for j in range(i % 4)]) for i in range(b)]
        return world.answer(batch, one_by_one=one_by_one)

    graphs = answers(uses_graphs=True, one_by_one=False)
    others = {
        "eagerly": answers(uses_graphs=False, one_by_one=False),
        "alone": answers(uses_graphs=True, one_by_one=True),
    }
    world.rig.runner.uses_graphs = True
    equal = {name: sum(map(list.__eq__, graphs, other)) for name, other in others.items()}
    least = b if world.size.dtype is torch.float32 else 0.75 * b
    return {"ok": min(equal.values()) >= least, "of": b, **{f"equal_{name}": n for name, n in equal.items()}}


def modules_grow(device: torch.device) -> dict[str, Any]:
    """Graphs over q and v, then an adapter of all modules, then the first again."""
    model = make_base(TINY.base, max_len=64, device=device)
    pairs = {
        name: AdapterWeights(make_pairs(model, targets, rank=4, seed=1))
        for name, targets in (("small", ("q_proj", "v_proj")), ("large", ALL_LINEAR))
    }
    rig = Rig.build(model, from_memory(pairs), num_slots=3, slot_rank=4, max_rows=4, max_len=64, router=None)
    found = []
    for i, name in enumerate(("small", "large", "small")):
        sequence = Sequence(str(i), (1, 2, 3), 6, (Expert(name),), PRESETS["selection"])
        rig.engine.add(sequence)
        while rig.engine.has_work:
            for update in rig.engine.step():
                if update.error is not None:
                    raise update.error
        found.append(list(sequence.tokens))
    return {"ok": found[0] == found[2] and all(len(tokens) == 6 for tokens in found)}


def prompts(world: World, k: int) -> dict[str, Any]:
    """One length again and again, then new ones, with the engine's attention and with cuDNN's."""
    n = world.size.prompt
    world.prefill(n, k)
    found = {"same_length_ms": median(world.prefill(n, k) for _ in range(3))}
    found["new_lengths_ms"] = median(world.prefill(n - i, k) for i in (3, 5, 7))
    with sdpa_of_cudnn(is_on=True):
        found["new_lengths_with_cudnn_ms"] = median(world.prefill(n - i, k) for i in (9, 11, 13))
    return found


def slot_write(world: World) -> dict[str, Any]:
    """An adapter from host memory into a slot; the host is free again before the device is done."""
    weights, all_ms, host_ms = world.adapters["a0"], [], []
    for _ in range(4):
        synchronize(world.device)
        since = time.perf_counter()
        world.rig.runner.place(1, weights)
        host_ms.append(1000 * (time.perf_counter() - since))
        synchronize(world.device)
        all_ms.append(1000 * (time.perf_counter() - since))
    return {"ms": median(all_ms), "host_ms": median(host_ms), "bytes": weights.num_bytes}


def run(records: Records, device: torch.device, *, is_tiny: bool) -> None:
    """What is right first."""
    records.attempt("check: graphs when modules are added", lambda: modules_grow(device))
    size = TINY if is_tiny else LARGE
    torch.backends.cuda.enable_cudnn_sdp(False)
    made: list[World] = []

    def make() -> dict[str, Any]:
        made.append(World(size, device))
        return {}

    records.attempt("the world is made", make)
    if not made:
        return
    world = made[0]
    records.attempt("check: tokens agree", lambda: tokens_agree(world))
    base_ms: dict[int, float] = {}

    def point(b: int, k: int, p: int) -> dict[str, Any]:
        if b not in base_ms:
            base_ms[b] = world.decode([24] * b, 0, 1)["step_ms"]
        found = world.decode([24] * b, k, p)
        return {"base_ms": base_ms[b], **found, "over_base": found["step_ms"] / base_ms[b]}

    for b, k, p in size.points:
        records.attempt(f"decode: b {b}, k {k}, p {p}", partial(point, b, k, p), needs_s=6)
    for k in (0, 3):
        records.attempt(f"prompt of {size.prompt}, k {k}", partial(prompts, world, k), needs_s=8)
    long = [size.prompt] + [24] * (min(32, size.max_rows) - 1)
    records.attempt("decode: one long row among short ones", lambda: world.decode(long, 0, 1), needs_s=8)
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=1)
    records.attempt("decode: sampled", lambda: world.decode([24] * min(32, size.max_rows), 1, 4, sampling), needs_s=6)
    records.attempt("slot write", lambda: slot_write(world), needs_s=4)
