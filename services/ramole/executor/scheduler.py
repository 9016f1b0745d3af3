"""Policy: which sequences run in the next step. Owns no tensors and loads nothing.

Each step: decode every running sequence first, then prefill in chunks under the token budget, then admit arrivals
while there are KV rows, slots and budget, in the order of `FairQueue`. A sequence whose adapters are not loaded yet
never holds up those behind it; a loaded one that was overtaken `MAX_SKIPS` times because its slots were busy closes the
door until it is in. So once its adapters are loaded, a sequence waits for at most the sequences that were before it,
`MAX_SKIPS` others, and the end of those that run then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ramole.executor.fair_queue import FairQueue
from ramole.executor.sequence import Sequence
from ramole.executor.slots import SlotTable
from ramole.mixture.plan import RequestMixture

MAX_SKIPS = 16


@dataclass(slots=True)
class Schedule:
    """What the next step does.

    Attributes:
        placements: (digest, slot) whose weights must be written before the step.
        sequences: in packed order: decodes by KV row, then prefill chunks.
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
        stay = [i for i, sequence in enumerate(self.sequences) if sequence.row is not None]
        return Schedule([], [self.sequences[i] for i in stay], [self.chunks[i] for i in stay])


class Scheduler:
    """Fair to tenants, with overtaking of what cannot run yet, token budget, decode first.

    Args:
        tenant_weights: as of `FairQueue`.

    Attributes:
        running_tokens: that those who run may come to, prompts included.
        num_held_up: of those who wait, how many the last step had no row, slots or budget for; others load.
    """

    def __init__(
        self,
        slots: SlotTable,
        *,
        max_rows: int,
        token_budget: int,
        tenant_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.slots = slots
        self.waiting = FairQueue(tenant_weights)
        self.running: list[Sequence] = []
        self.running_tokens = 0
        self.num_held_up = 0
        self._free_rows = list(range(max_rows - 1, -1, -1))
        self._token_budget = token_budget

    def add(self, sequence: Sequence) -> None:
        """Queues an arrival."""
        self.waiting.add(sequence)

    def schedule(self, is_loaded: Callable[[str], bool]) -> Schedule:
        """Plans one step. `is_loaded` says whether an adapter's weights are at hand for a slot write."""
        plan = Schedule()
        budget = self._token_budget
        decoding = sorted((s for s in self.running if s.is_prefilled), key=lambda s: s.row or 0)
        for sequence in decoding[:budget]:
            plan.sequences.append(sequence)
            plan.chunks.append(1)
            self.waiting.charge(sequence.tenant, 1)
        budget -= len(plan.sequences)
        for sequence in self.running:
            if not sequence.is_prefilled:
                budget -= self._prefill(plan, sequence, budget)
        self._admit(plan, budget, is_loaded)
        # One-token prompts and last chunks are decodes to the layers: those come first in a step plan.
        order = sorted(range(len(plan.chunks)), key=lambda i: plan.chunks[i] != 1)
        plan.sequences = [plan.sequences[i] for i in order]
        plan.chunks = [plan.chunks[i] for i in order]
        return plan

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it is, and frees what it held."""
        if sequence.row is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.running_tokens -= sequence.max_length
        self._free_rows.append(sequence.row)
        self._free_rows.sort(reverse=True)  # low rows first keeps the decode rows together
        self.slots.release(sequence.digests)
        sequence.row = None

    def _prefill(self, plan: Schedule, sequence: Sequence, budget: int) -> int:
        chunk = min(budget, len(sequence.prompt) - sequence.num_cached)
        if chunk <= 0:
            return 0
        plan.sequences.append(sequence)
        plan.chunks.append(chunk)
        self.waiting.charge(sequence.tenant, chunk)
        return chunk

    def _admit(self, plan: Schedule, budget: int, is_loaded: Callable[[str], bool]) -> None:
        blocked: list[Sequence] = []
        is_full = False
        for sequence in self.waiting:
            is_full = not self._free_rows or budget <= 0
            if is_full:
                break
            if not all(digest in self.slots or is_loaded(digest) for digest in sequence.digests):
                continue
            if not self.slots.can_acquire(sequence.digests):
                blocked.append(sequence)
                if sequence.skipped >= MAX_SKIPS:
                    break
                continue
            for overtaken in blocked:
                overtaken.skipped += 1
            self.waiting.remove(sequence)
            plan.placements += self.slots.acquire(sequence.digests)
            sequence.row = self._free_rows.pop()
            sequence.mixture = RequestMixture.build(
                sequence.composition, sequence.experts, [self.slots.slot(e.digest) for e in sequence.experts]
            )
            self.running.append(sequence)
            self.running_tokens += sequence.max_length
            budget -= self._prefill(plan, sequence, budget)
            if any(overtaken.skipped >= MAX_SKIPS for overtaken in blocked):
                break
        self.num_held_up = len(self.waiting) if is_full else len(blocked)
