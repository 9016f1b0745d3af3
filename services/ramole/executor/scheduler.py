"""Policy: which sequences run in the next step, and with which blocks of memory. Owns no tensors and loads nothing.

Each step: decode every running sequence first, then prefill in chunks under the token budget, then admit arrivals
while there are blocks, slots and budget, in the order of `FairQueue`. A sequence whose adapters are not loaded yet
never holds up those behind it; a loaded one that was overtaken `MAX_SKIPS` times because its slots or blocks were busy
closes the door until it is in. So once its adapters are loaded, a sequence waits for at most the sequences that were
before it, `MAX_SKIPS` others, and the end of those that run then.

A sequence holds the blocks of what it has, not of what it may come to. When there are no more, the youngest gives its
blocks back and goes to the front of the queue, the door closed behind it: pre-emption by recomputation. Its tokens
stay, and when it is admitted again their keys and values are made anew, as a prompt's are. The oldest is never
pre-empted for another, and one alone always fits (the engine refuses what does not): so everybody ends.
It keeps its slots meanwhile: an adapter that was deleted could not be loaded again.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from ramole.core.composition import Composition, Expert
from ramole.executor.block_pool import BLOCK, BlockPool, blocks_for
from ramole.executor.fair_queue import FairQueue
from ramole.executor.prefix import Name, PrefixChain
from ramole.executor.sequence import Sequence
from ramole.executor.slots import SlotTable
from ramole.mixture.plan import NO_SLOT, RequestMixture

MAX_SKIPS = 16


@dataclass(slots=True)
class Schedule:
    """What the next step does.

    Attributes:
        placements: (digest, slot) whose weights must be written before the step.
        sequences: in packed order: decodes, the oldest first, then prefill chunks.
        chunks: tokens of each of them.
    """

    placements: list[tuple[str, int]] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Of the whole step."""
        return sum(self.chunks)

    def halves(self) -> tuple[Schedule, Schedule]:
        """Two schedules of half the sequences each, in the same order, without placements."""
        n = len(self.sequences) // 2
        return (
            Schedule([], self.sequences[:n], self.chunks[:n]),
            Schedule([], self.sequences[n:], self.chunks[n:]),
        )

    def without_finished(self) -> Schedule:
        """The same without sequences that have left since."""
        stay = [i for i, sequence in enumerate(self.sequences) if sequence.blocks]
        return Schedule([], [self.sequences[i] for i in stay], [self.chunks[i] for i in stay])


class Scheduler:
    """Fair to tenants, with overtaking of what cannot run yet, token budget, decode first.

    Args:
        pool: the blocks.
        reuses_prefixes: keep the blocks of what is computed, for sequences that begin alike.
        tenant_weights: as of `FairQueue`.

    Attributes:
        running: those with blocks, the oldest first.
        running_tokens: that those who run may come to, prompts included.
        num_held_up: of those who wait, how many the last step had no blocks, slots or budget for; others load.
        num_preempted: how often one gave its blocks to an older one.
        num_asked, num_reused: tokens of the prompts that were admitted, and those of them that were not computed.
    """

    def __init__(
        self,
        slots: SlotTable,
        pool: BlockPool,
        *,
        max_rows: int,
        token_budget: int,
        reuses_prefixes: bool = False,
        tenant_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.slots = slots
        self.pool = pool
        self.waiting = FairQueue(tenant_weights)
        self.running: list[Sequence] = []
        self.running_tokens = 0
        self.num_held_up = 0
        self.num_preempted = 0
        self.num_asked = self.num_reused = 0
        self._turns = count()
        self._max_rows = max_rows
        self._token_budget = token_budget
        self._reuses_prefixes = reuses_prefixes

    def add(self, sequence: Sequence) -> None:
        """Queues an arrival."""
        sequence.chain = self._chain_of(sequence)
        self.waiting.add(sequence)

    def schedule(self, is_loaded: Callable[[str], bool]) -> Schedule:
        """Plans one step. `is_loaded` says whether an adapter's weights are at hand for a slot write.

        Zero `pool.take_freed()` before it runs.
        """
        plan = Schedule()
        num_decoding = min(self._token_budget, sum(1 for sequence in self.running if sequence.is_prefilled))
        budget = self._token_budget - num_decoding
        for sequence in tuple(self.running):
            if not sequence.blocks:  # an older one has them, since this loop began
                continue
            if not sequence.is_prefilled:
                budget -= self._prefill(plan, sequence, budget)
            elif num_decoding and self._has_place_for_next(sequence):
                num_decoding -= 1
                self._plan(plan, sequence, 1)
        self._admit(plan, budget, is_loaded)
        # One-token prompts and last chunks are decodes to the layers: those come first in a step plan.
        order = sorted(range(len(plan.chunks)), key=lambda i: plan.chunks[i] != 1)
        plan.sequences = [plan.sequences[i] for i in order]
        plan.chunks = [plan.chunks[i] for i in order]
        return plan

    def computed(self, sequence: Sequence, num_before: int) -> None:
        """What is in the sequence's blocks has grown from `num_before` tokens to `num_cached`."""
        if sequence.chain is None:
            return
        first, last = num_before // BLOCK, sequence.num_cached // BLOCK
        if first == last:
            return
        for i, name in enumerate(_names(sequence, sequence.chain, last)[first:], first):
            self.pool.keep(sequence.blocks[i], name, sequence.chain.digests)

    def finish(self, sequence: Sequence, *, keeps: bool = True) -> None:
        """Takes a sequence out, wherever it is, and frees what it held.

        Args:
            keeps: False = nobody may meet what is in its blocks.
        """
        if not keeps:
            self.pool.unname(sequence.blocks)
        if sequence.blocks:
            self._stop(sequence)
        else:
            self.waiting.remove(sequence)
        self._release_slots(sequence)

    def reroute(self, sequence: Sequence, experts: tuple[Expert, ...], composition: Composition) -> None:
        """Gives one that runs or waits other experts. If it ran before, its tokens stay and their KV is made anew."""
        if sequence.turn is not None:
            if sequence.blocks:
                self._stop(sequence)
            else:
                self.waiting.remove(sequence)
            self._release_slots(sequence)
        sequence.experts, sequence.composition = experts, composition
        sequence.chain = self._chain_of(sequence)
        sequence.num_computed = 0
        sequence.usage_weights = sequence.usage_counts = None
        if sequence.turn is not None:
            self.waiting.put_back(sequence)

    def _chain_of(self, sequence: Sequence) -> PrefixChain | None:
        if not self._reuses_prefixes or sequence.layers:  # whose states are wanted computes them
            return None
        digests = tuple(expert.digest for expert in sequence.experts)
        mixture = RequestMixture.build(sequence.composition, sequence.experts, [NO_SLOT] * len(digests))
        # What a routed mixture's experts got is reported by token, and nobody would know it of tokens not computed.
        return None if mixture.is_routed else PrefixChain(sequence.tenant, digests, mixture)

    def _release_slots(self, sequence: Sequence) -> None:
        if sequence.mixture is not None:
            self.slots.release(sequence.digests)
            sequence.mixture = None

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.running_tokens -= sequence.max_length
        self.pool.give_back(sequence.blocks)
        sequence.blocks = []
        sequence.num_cached = 0

    def _has_place_for_next(self, sequence: Sequence) -> bool:
        """Finds a block for the next token, if need be that of the youngest. False = that is itself."""
        if sequence.num_cached < BLOCK * len(sequence.blocks):
            return True
        while not self.pool.num_free:
            youngest = self.running[-1]
            self._stop(youngest)
            self.waiting.put_back(youngest)
            youngest.num_preempted += 1
            self.num_preempted += 1
            if youngest is sequence:
                return False
        sequence.blocks += self.pool.take(1)
        return True

    def _prefill(self, plan: Schedule, sequence: Sequence, budget: int) -> int:
        chunk = min(budget, sequence.num_missing)
        if sequence.is_computed_again:  # a chunk is either new or not: what experts got is counted of the new ones
            chunk = min(chunk, sequence.num_computed - sequence.num_cached)
        if chunk <= 0:
            return 0
        self._plan(plan, sequence, chunk)
        return chunk

    def _plan(self, plan: Schedule, sequence: Sequence, chunk: int) -> None:
        plan.sequences.append(sequence)
        plan.chunks.append(chunk)
        if not sequence.is_computed_again:  # nobody pays for what was taken from it
            self.waiting.charge(sequence.tenant, chunk)

    def _admit(self, plan: Schedule, budget: int, is_loaded: Callable[[str], bool]) -> None:
        blocked: list[Sequence] = []
        is_full = False
        spare = self._spare_blocks()
        for sequence in self.waiting:
            is_full = len(self.running) >= self._max_rows or budget <= 0 or spare <= 0
            if is_full:
                break
            has_slots = sequence.mixture is not None
            if not has_slots and not all(digest in self.slots or is_loaded(digest) for digest in sequence.digests):
                continue
            shared = self._find_prefix(sequence)
            num_needed = blocks_for(sequence.num_tokens) - len(shared) + self.pool.num_idle(shared)
            has_blocks = num_needed <= spare
            if not has_blocks or not (has_slots or self.slots.can_acquire(sequence.digests)):
                blocked.append(sequence)
                if sequence.skipped >= MAX_SKIPS or (has_slots and not has_blocks):
                    break
                continue
            for overtaken in blocked:
                overtaken.skipped += 1
            self.waiting.remove(sequence)
            if not has_slots:
                plan.placements += self.slots.acquire(sequence.digests)
                sequence.mixture = RequestMixture.build(
                    sequence.composition, sequence.experts, [self.slots.slot(e.digest) for e in sequence.experts]
                )
            self._start(sequence, shared)
            spare = self._spare_blocks()
            budget -= self._prefill(plan, sequence, budget)
            if any(overtaken.skipped >= MAX_SKIPS for overtaken in blocked):
                break
        self.num_held_up = len(self.waiting) if is_full else len(blocked)

    def _start(self, sequence: Sequence, shared: list[int]) -> None:
        self.pool.share(shared)
        sequence.blocks = shared + self.pool.take(blocks_for(sequence.num_tokens) - len(shared))
        sequence.num_cached = BLOCK * len(shared)
        if sequence.turn is None:
            sequence.turn = next(self._turns)
            if self._reuses_prefixes:
                self.num_asked += len(sequence.prompt)
                self.num_reused += sequence.num_cached
        insort(self.running, sequence, key=lambda each: each.turn or 0)
        self.running_tokens += sequence.max_length

    def _spare_blocks(self) -> int:
        """For those who wait: one is left to each that runs, or who comes in would have to go out again at once."""
        growing = sum(1 for each in self.running if len(each.blocks) < blocks_for(each.max_length))
        return self.pool.num_free - growing

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        """Blocks that hold what it begins with. Its last token is computed whatever they hold: the next hangs on it."""
        if sequence.chain is None:
            return []
        return self.pool.find(_names(sequence, sequence.chain, (sequence.num_tokens - 1) // BLOCK))


def _names(sequence: Sequence, chain: PrefixChain, num_blocks: int) -> list[Name]:
    return chain.names(num_blocks, lambda i: sequence.tokens_between(i * BLOCK, (i + 1) * BLOCK))
