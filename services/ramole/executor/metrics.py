"""What the executor counts: its steps, on the engine's thread and so without locks; its memory, when it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import log
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ramole.executor.sequence import Sequence
from ramole.mixture.plan import StepPlan
from ramole.observability.specs import SHARES, SIZES, TOKEN_S, CounterSpec, GaugeSpec, HistogramSpec, Stage, TenantNames
from ramole.observability.stages import STAGE_S

if TYPE_CHECKING:  # the reference of all metrics is made without the engine
    from ramole.executor.engine import Engine

STEP_S = HistogramSpec("ramole_step_duration_seconds", "Seconds of one step of the engine.", buckets=TOKEN_S)
BETWEEN_S = HistogramSpec(
    "ramole_inter_token_latency_seconds", "Seconds between two tokens of one answer.", buckets=TOKEN_S
)
BATCH_SIZE = HistogramSpec("ramole_batch_size", "Requests in one step.", buckets=SIZES)
BATCH_ADAPTERS = HistogramSpec("ramole_batch_unique_adapters", "Unique adapters p in one step.", buckets=SIZES)
DENSITY = HistogramSpec(
    "ramole_batch_mask_density",
    "Share of the mask M [requests, unique adapters] that is set, of steps with adapters: 1 = all use the same.",
    buckets=SHARES,
)
GATE_ENTROPY = HistogramSpec(
    "ramole_gate_entropy_ratio",
    "Entropy of the mean weights of an answer's experts, as a share of that of equal weights: 0 = one has all. Of "
    "answers with two experts or more.",
    buckets=SHARES,
)
STEP_TOKENS = CounterSpec("ramole_step_tokens", "Tokens that the engine has computed.", ("kind",))
QUEUE = GaugeSpec("ramole_queue_length", "Requests that wait for the engine.", ("tenant",))
QUEUE_LIMIT = GaugeSpec("ramole_queue_limit", "Requests that may wait.")
RUNNING = GaugeSpec("ramole_requests_running", "Requests in the batch.")
ROWS = GaugeSpec("ramole_kv_rows", "Requests that can run at once.")
KV_USE = GaugeSpec("ramole_kv_usage_ratio", "Share of the KV memory's blocks that requests hold: 0 to 1.")
KV_BLOCKS = GaugeSpec("ramole_kv_blocks", "Blocks of the KV memory.")
KV_KEPT = GaugeSpec("ramole_kv_blocks_kept", "Blocks that no request holds, kept for prompts that begin alike.")
PREEMPTED = CounterSpec("ramole_preemptions", "How often a request gave its KV memory to an older one.")
PREFIX = CounterSpec(
    "ramole_prefix_tokens",
    "Tokens of prompts while prefixes are reused: asked for, and of these reused.",
    ("kind",),
)
SLOTS = GaugeSpec("ramole_slots", "Slots of the device that adapters can have.")
SLOTS_USED = GaugeSpec("ramole_slots_used", "Slots with an adapter.")
SLOTS_PINNED = GaugeSpec("ramole_slots_pinned", "Slots whose adapter some running request uses.")


class EngineMetrics(Collector):
    """Counts of one engine.

    `step` belongs to the engine's thread, `answered` to the event loop, `collect` to any.
    """

    def __init__(self, registry: CollectorRegistry, tenants: TenantNames, *, max_waiting: int) -> None:
        self._tenants = tenants
        self._max_waiting = max_waiting
        self._engine: Engine | None = None
        self._step_s = STEP_S.tally(registry)
        self._between_s = BETWEEN_S.tally(registry)
        self._batch_size = BATCH_SIZE.tally(registry)
        self._batch_adapters = BATCH_ADAPTERS.tally(registry)
        self._density = DENSITY.tally(registry)
        self._entropy = GATE_ENTROPY.tally(registry)
        self._num_prefill = self._num_decode = 0
        self._stages = STAGE_S.on(registry)
        self._seen: StepPlan | None = None
        self._seen_density = 0.0
        registry.register(self)

    def watch(self, engine: Engine) -> None:
        """Reports the memory of `engine` from now on."""
        self._engine = engine

    def step(self, plan: StepPlan, num_decoded: int, step_s: float, between_s: float) -> None:
        """One step is done.

        Args:
            num_decoded: sequences that got a token, and had got one in the step before.
            step_s: what it took.
            between_s: how long after the end of the step before it ended.
        """
        self._step_s.observe(step_s)
        self._batch_size.observe(plan.num_requests)
        self._num_decode += num_decoded
        self._num_prefill += plan.num_tokens - num_decoded
        if num_decoded:
            self._between_s.observe(between_s, num_decoded)
        if plan.num_adapters:
            if plan is not self._seen:  # while the same requests decode, the plan stays
                self._seen, self._seen_density = plan, float(plan.mask.mean())
            self._batch_adapters.observe(plan.num_adapters)
            self._density.observe(self._seen_density)

    def answered(self, sequence: Sequence) -> None:
        """An answer is complete."""
        admitted_s, first_s, last_s = sequence.admitted_s, sequence.first_token_s, sequence.last_token_s
        if admitted_s is not None and first_s is not None and last_s is not None:
            self._stages.labels(Stage.QUEUE).observe(admitted_s - sequence.arrived_s)
            self._stages.labels(Stage.PREFILL).observe(first_s - admitted_s)
            self._stages.labels(Stage.DECODE).observe(last_s - first_s)
        weights, _ = sequence.mean_weights()
        if len(weights) > 1 and weights.sum() > 0:
            shares = weights[weights > 0] / weights.sum()
            self._entropy.observe(-float(shares @ np.log(shares)) / log(len(weights)))

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        tokens = STEP_TOKENS.family()
        tokens.add_metric(["prefill"], self._num_prefill)
        tokens.add_metric(["decode"], self._num_decode)
        yield tokens
        engine = self._engine
        if engine is None:
            return
        waiting: Counter[str] = Counter({self._tenants(""): 0})
        for tenant, number in engine.waiting_by_tenant.items():
            waiting[self._tenants(tenant)] += number
        queue = QUEUE.family()
        for tenant, number in waiting.items():
            queue.add_metric([tenant], number)
        yield queue
        figures = engine.figures
        preempted = PREEMPTED.family()
        preempted.add_metric([], figures.num_preempted)
        yield preempted
        prefix = PREFIX.family()
        prefix.add_metric(["asked"], figures.num_asked)
        prefix.add_metric(["reused"], figures.num_reused)
        yield prefix
        memory = engine.memory
        for spec, value in (
            (QUEUE_LIMIT, float(self._max_waiting)),
            (RUNNING, engine.num_running),
            (ROWS, memory.num_rows),
            (KV_USE, memory.kv_share),
            (KV_BLOCKS, memory.num_blocks),
            (KV_KEPT, memory.num_kept_blocks),
            (SLOTS, memory.num_slots),
            (SLOTS_USED, engine.num_resident),
            (SLOTS_PINNED, memory.num_pinned),
        ):
            family = spec.family()
            family.add_metric([], value)
            yield family
