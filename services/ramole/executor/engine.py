"""The loop: admit, place adapters, run one forward, hand out tokens. No text, no threads of its own, no network.

What raises in a step fails the sequence whose work it was. Where that cannot be seen from the exception, the step runs
again in halves, until the culprit is alone. Only a device that no longer computes at all ends `step` with an exception.

`load` gives a future of an adapter's weights by digest; `offline.py` is the whole of it around an engine:

    engine.add(Sequence("a", prompt=[1, 5, 9], max_tokens=8, experts=(Expert(digest),)))
    while engine.has_work:
        for update in engine.step(): ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

import torch

from ramole.core.answer import FinishReason
from ramole.core.composition import Composition, Expert
from ramole.core.errors import Cancelled, ExpertUnavailable, LimitExceeded, RamoleError, own_fault
from ramole.executor.block_pool import BlockPool
from ramole.executor.engine_view import EngineView
from ramole.executor.fair_queue import BYTES_PER_TOKEN
from ramole.executor.limits import check_experts, fit_length
from ramole.executor.loads import LoadAdapter, Loads
from ramole.executor.runner import ModelRunner
from ramole.executor.sampler import SampledToken
from ramole.executor.scheduler import Schedule, Scheduler
from ramole.executor.sequence import Sequence
from ramole.executor.slots import SlotTable
from ramole.lora.weights import AdapterWeights
from ramole.mixture.plan import NO_SLOT, RequestMixture, StepPlan


@dataclass(frozen=True, slots=True)
class Update:
    """News of one sequence after a step: its newest token, or the error that ended it. Nothing comes after the last."""

    sequence: Sequence
    sampled: SampledToken | None = None
    error: RamoleError | None = None
    is_last: bool = False


class Engine(EngineView):
    """Runs sequences with different adapters together. All methods belong to one thread; `load` must not block."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        load: LoadAdapter,
        release: Callable[[str], None] = lambda digest: None,
        placed: Callable[[float], None] = lambda seconds: None,
        stepped: Callable[[StepPlan, int, float, float], None] = lambda plan, decoded, step_s, between_s: None,
        eos_token_ids: Collection[int],
        num_slots: int,
        max_rows: int,
        token_budget: int,
        max_waiting: int = 1024,
        prefix_reuse: bool = False,
        tenant_weights: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            load: starts loading an adapter's weights by digest, off this thread.
            release: told once for each `load`, when its weights are in a slot or no longer wanted.
            placed: told the seconds that each write into a slot took on the host. Nobody waits for a GPU, so there it
                may still be copying.
            stepped: told of each step its plan, how many sequences got a token again, the seconds that it took, and
                those since the end of the one before.
            prefix_reuse: whether a prompt may begin with keys and values that another sequence of its tenant has
                computed, with the very same mixture.
            tenant_weights: share of each tenant beside the others; 1 where none is given.
            clock: monotonic seconds.
        """
        scheduler = Scheduler(
            SlotTable(num_slots),
            BlockPool(runner.kv.num_blocks),
            max_rows=max_rows,
            token_budget=token_budget,
            reuses_prefixes=prefix_reuse,
            tenant_weights=tenant_weights,
        )
        super().__init__(scheduler, num_rows=max_rows, num_slots=num_slots, clock=clock)
        self._runner = runner
        self._loads = Loads(load, release)
        self._placed = placed
        self._stepped = stepped
        self._last_step_s = 0.0
        # Those behind could not run before these: their loads would only fill the memory.
        self._load_ahead = 2 * max_rows
        self._eos = frozenset(eos_token_ids)
        self._max_waiting = max_waiting
        self._sequences: dict[str, Sequence] = {}
        self._updates: list[Update] = []
        self._doomed: set[str] = set()
        self.fullest_plan: StepPlan | None = None
        self.fullest_digests: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return self._runner.device

    @property
    def max_len(self) -> int:
        """Tokens of prompt and answer that a sequence may have."""
        return self._runner.kv.max_len

    @property
    def depth(self) -> int:
        """Layers of the base model."""
        return self._runner.depth

    @property
    def has_work(self) -> bool:
        """Whether `step` would have anything to do, now or when a load is done."""
        return bool(self._sequences or self._updates)

    @property
    def is_stalled(self) -> bool:
        """Whether every sequence waits for adapters: the next step runs nothing until a load is done."""
        scheduler = self._scheduler
        return not self._updates and not scheduler.running and bool(scheduler.waiting) and not self._any_loaded()

    @property
    def pending_loads(self) -> tuple[Future[AdapterWeights], ...]:
        """Loads under way."""
        return self._loads.pending

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of the adapters on the device."""
        return self._scheduler.slots.resident

    @property
    def awaited(self) -> tuple[str, ...]:
        """Digests of adapters that the queue waits for and the device has not, in the order of the queue."""
        wanted = dict.fromkeys(digest for sequence in self._without_slots() for digest in sequence.digests)
        return tuple(digest for digest in wanted if not self.holds(digest))

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence and starts loading its missing adapters.

        Raises:
            InvalidInput: the prompt is empty, or it does not fit with its answer.
            LimitExceeded: the queue is full, or the request needs more slots than there are.
            WrongState: a routed composition without a RouterLoRA.
        """
        fit_length(sequence, max_len=self._runner.kv.max_len, num_blocks=self._runner.kv.num_blocks)
        if len(self._scheduler.waiting) >= self._max_waiting and not sequence.goes_first:
            raise LimitExceeded(
                f"{self._max_waiting} requests are waiting already", remedy="retry later", retry_after_s=1.0
            )
        self._check_experts(sequence.experts, sequence.composition)
        self._sequences[sequence.id] = sequence
        self._scheduler.add(sequence)
        self._load_for_waiting()

    def reroute(self, sequence_id: str, experts: tuple[Expert, ...], composition: Composition) -> None:
        """Gives a sequence other experts from its next token on. Unknown ids are ignored: it may have just finished.

        Its tokens stay, and nothing else stops: it goes to the front of the queue, and once its adapters have slots its
        keys and values are made anew by them, in chunks beside the others' steps. Its usage is then of these experts.

        Raises:
            LimitExceeded: they need more slots than there are.
            WrongState: a routed composition without a RouterLoRA.
        """
        self._check_experts(experts, composition)
        self._runner.settle()  # the steps so far are those of the experts that it had
        self._fail_unbooked()
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            self._scheduler.reroute(sequence, experts, composition)
            self._wipe()
            self._load_for_waiting()

    def cancel(self, sequence_id: str) -> None:
        """Frees everything a sequence holds. Unknown ids are ignored: it may have just finished."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None and sequence.blocks:
            self._runner.settle()  # whoever ended it reads what the experts got
        self._take_out(sequence_id, keeps=True)

    def evict(self, digests: Collection[str], *, abort: bool, tenant: str = "") -> int:
        """Forgets adapters. Those in use go when their last sequence ends, or at once with `abort`.

        Without `abort` every sequence that is here finishes. What the queue needs may be gone from everywhere else
        soon, so the loads of all of it have begun when this returns.

        Args:
            tenant: only sequences that use them by adapters of this one are aborted; '' = all.

        Returns:
            How many sequences were aborted; each gets an update with the error Cancelled.
        """
        wanted = set(digests)

        def is_user(sequence: Sequence) -> bool:
            return any(each.digest in wanted and tenant in ("", each.tenant) for each in sequence.experts)

        users = [sequence for sequence in self._sequences.values() if is_user(sequence)] if abort else []
        for sequence in users:
            self._fail(sequence, Cancelled("an adapter of this request was revoked", field="adapters"))
        awaited = wanted & {digest for sequence in self._without_slots() for digest in sequence.digests}
        for digest in wanted - awaited:
            if digest in self._loads:
                self._loads.take(digest)
        for digest in awaited:
            # Also what is on the device: it may have to make room before their turn.
            self._loads.start(digest)
        self._scheduler.pool.forget(wanted)
        self._doomed |= wanted
        self._bury()
        return len(users)

    def step(self) -> list[Update]:
        """One iteration. Returns the news since the last one; empty when everything waits for adapters."""
        self._bury()
        self._collect_loads()
        schedule = self._scheduler.schedule(self._loads.is_done)
        self._wipe()
        for digest, slot in schedule.placements:
            self._place(digest, slot)
            if digest not in self._doomed:  # it may have to make room for others, and come back for those who wait
                self._loads.take(digest)
        if schedule.placements:
            schedule = schedule.without_finished()
        if schedule.sequences:
            now = self._clock()
            for sequence in schedule.sequences:
                sequence.admitted_s = now if sequence.admitted_s is None else sequence.admitted_s
            self._run(schedule)
        self._fail_unbooked()
        self._load_for_waiting()
        updates, self._updates = self._updates, []
        return updates

    def _check_experts(self, experts: tuple[Expert, ...], composition: Composition) -> None:
        slots, mixture = self._scheduler.slots, self._runner.mixture
        check_experts(experts, composition, num_slots=slots.num_slots, has_router=mixture.has_router)
        # The scheduler builds it, with slots. What cannot be built fails here, where only its caller hears of it.
        RequestMixture.build(composition, experts, [NO_SLOT] * len(experts))

    def _run(self, schedule: Schedule) -> None:
        started_s = self._clock()
        try:
            choices, plan = self._runner.run(schedule)
        except Exception as error:
            self._runner.forget()
            self._runner.check_device()  # raises where no other sequence could do better
            if len(schedule.sequences) > 1:
                for half in schedule.halves():
                    self._run(half)
            else:
                self._fail(schedule.sequences[0], own_fault(error, "the model failed on this request"))
            return
        self._account(plan)
        num_decoded = sum(1 for sequence in schedule.sequences if sequence.is_prefilled)
        for sequence, chunk, choice in zip(schedule.sequences, schedule.chunks, choices, strict=True):
            self._advance(sequence, chunk, choice, plan)
        ended_s = self._clock()
        self._stepped(plan, num_decoded, ended_s - started_s, ended_s - self._last_step_s)
        self._last_step_s = ended_s

    def _bury(self) -> None:
        slots = self._scheduler.slots
        for digest in [d for d in self._doomed if not slots.refs(d) and not self._waiting_for(d)]:
            self._doomed.discard(digest)
            self._scheduler.pool.forget([digest])  # what its last users have left
            slot = slots.drop(digest)
            if slot is not None:
                self._runner.clear(slot)
                self._slot_bytes[slot] = 0
        self._wipe()

    def _wipe(self) -> None:
        """Zeroes the blocks that have become free."""
        freed = self._scheduler.pool.take_freed()
        if freed:
            self._runner.wipe(freed)

    def _place(self, digest: str, slot: int) -> None:
        """Writes an adapter into the slot that it was given. If that cannot be done, those who wait for it fail."""
        weights = self._loads.weights(digest)
        self._runner.settle()  # reads what the steps before have left on the device: no part of the write
        started_s = self._clock()
        try:
            self._runner.place(slot, weights)
        except Exception as error:
            self._runner.check_device()
            for sequence in [s for s in self._scheduler.running if digest in s.digests]:
                self._fail(sequence, _of_expert(own_fault(error, "an adapter could not be placed"), sequence, digest))
            self._scheduler.slots.drop(digest)
            self._runner.clear(slot)
            return
        ended_s = self._clock()
        self._placed(ended_s - started_s)
        self._slot_bytes[slot] = weights.num_bytes
        users = [sequence for sequence in self._scheduler.running if digest in sequence.digests]
        for sequence in users:
            sequence.placed.append((digest, started_s, ended_s))
        if users:
            self._scheduler.waiting.charge(users[0].tenant, weights.num_bytes / BYTES_PER_TOKEN)

    def _advance(
        self, sequence: Sequence, chunk: int, sampled: SampledToken | RamoleError | None, plan: StepPlan
    ) -> None:
        sequence.num_cached += chunk
        sequence.num_computed = max(sequence.num_computed, sequence.num_cached)
        self._scheduler.computed(sequence, sequence.num_cached - chunk)
        sequence.max_batch = max(sequence.max_batch, plan.num_requests)
        sequence.max_unique_adapters = max(sequence.max_unique_adapters, plan.num_adapters)
        if sampled is None:
            return
        if isinstance(sampled, RamoleError):
            self._fail(sequence, sampled)
            return
        sequence.tokens.append(sampled.token)
        now = sequence.last_token_s = self._clock()
        if sequence.first_token_s is None:
            sequence.first_token_s = now
            self._first_tokens.add(now, now - sequence.arrived_s)
        if sampled.token in self._eos:
            sequence.finish_reason = FinishReason.STOP
        elif len(sequence.tokens) >= sequence.max_tokens:
            sequence.finish_reason = FinishReason.LENGTH
        if sequence.is_finished:
            self._runner.settle()  # whoever gets the last update reads what the experts got
            self._fail_unbooked()
        if sequence.id in self._sequences:
            self._updates.append(Update(sequence, sampled, is_last=sequence.is_finished))
        if sequence.is_finished:
            self.cancel(sequence.id)

    def _fail_unbooked(self) -> None:
        for sequence, error in self._runner.take_unbooked():
            self._fail(sequence, own_fault(error, "what the experts got could not be read"))

    def _account(self, plan: StepPlan) -> None:
        best = self.fullest_plan
        if best is None or (plan.num_adapters, plan.num_requests) > (best.num_adapters, best.num_requests):
            by_slot = {self._scheduler.slots.slot(digest): digest for digest in self.resident}
            self.fullest_plan = plan
            self.fullest_digests = tuple(by_slot[slot] for slot in plan.adapters)

    def _load_for_waiting(self) -> None:
        """Starts what the next sequences miss, also what was evicted since they arrived."""
        for sequence in islice(self._without_slots(), self._load_ahead):
            for digest in sequence.digests:
                if digest not in self._scheduler.slots:
                    self._loads.start(digest)

    def _without_slots(self) -> Iterator[Sequence]:
        """Those who wait, but not whoever holds its slots, because it ran before."""
        return (sequence for sequence in self._scheduler.waiting if sequence.mixture is None)

    def _any_loaded(self) -> bool:
        slots, loads = self._scheduler.slots, self._loads
        return any(all(d in slots or loads.is_done(d) for d in s.digests) for s in self._scheduler.waiting)

    def _waiting_for(self, digest: str) -> list[Sequence]:
        return [sequence for sequence in self._scheduler.waiting if digest in sequence.digests]

    def _collect_loads(self) -> None:
        """Fails the sequences whose adapters could not be loaded; forgets what nobody needs."""
        for digest, loaded in self._loads.ended():
            error = loaded if isinstance(loaded, RamoleError) else self._misfit(loaded)
            users = self._waiting_for(digest)
            if error is not None and digest not in self._scheduler.slots:
                for sequence in users:
                    self._fail(sequence, _of_expert(error, sequence, digest))
            if error is not None or not users:
                self._loads.take(digest)

    def _misfit(self, weights: AdapterWeights) -> RamoleError | None:
        try:
            self._runner.mixture.check(weights)
        except Exception as error:
            return own_fault(error, "an adapter does not fit")
        return None

    def _fail(self, sequence: Sequence, error: RamoleError) -> None:
        if self._take_out(sequence.id, keeps=False):
            self._updates.append(Update(sequence, error=error, is_last=True))

    def _take_out(self, sequence_id: str, *, keeps: bool) -> bool:
        """Frees everything a sequence holds; with `keeps` its blocks may serve others. False = it is not here."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._scheduler.finish(sequence, keeps=keeps)
            self._wipe()
        return sequence is not None


def _of_expert(error: RamoleError, sequence: Sequence, digest: str) -> RamoleError:
    """The error of one adapter, as that of the request's expert."""
    index = next(i for i, expert in enumerate(sequence.experts) if expert.digest == digest)
    return ExpertUnavailable.of(error, index)
