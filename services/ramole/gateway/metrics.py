"""What the gateway counts: answers as their clients see them, uploads, and how far the index is behind the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ramole.core.errors import Internal, RamoleError
from ramole.gateway.pool import SeenNames
from ramole.gateway.upkeep import Upkeep
from ramole.gateway.values import Routing
from ramole.observability.specs import (
    FIRST_TOKEN_S,
    LABELS,
    CounterSpec,
    GaugeSpec,
    HistogramSpec,
    Stage,
    TenantNames,
)
from ramole.observability.stages import STAGE_S
from ramole.transport.errors import code_of
from ramole.v1.common_pb2 import TokenChunk
from ramole.v1.gateway_pb2 import UsageReport

ANSWERS = CounterSpec(
    "ramole_answers", "Answers that ended, on both ports, by the tenant that asked and by status.", ("tenant", "code")
)
ANSWER_S = HistogramSpec("ramole_answer_duration_seconds", "Seconds from a prompt to the end of its whole answer.")
FIRST_S = HistogramSpec(
    "ramole_time_to_first_token_seconds",
    "Seconds from a prompt to the first piece of its answer.",
    buckets=FIRST_TOKEN_S,
)
TOKENS = CounterSpec("ramole_tokens", "Tokens of prompts and of answers.", ("tenant", "kind"))
FALLBACKS = CounterSpec(
    "ramole_fallbacks",
    "Answers that do without something: RETRIEVAL_DOWN, the base model alone; else why an adapter could not be used.",
    ("reason",),
)
UPLOADS = CounterSpec("ramole_uploads", "Uploads that were acknowledged.")
UPLOAD_FAILURES = CounterSpec("ramole_upload_failures", "Uploads that were refused or broke off.", ("reason",))
RECONCILES = CounterSpec("ramole_reconciles", "Runs that bring the index in line with the store.", ("result",))
REPAIRS = CounterSpec(
    "ramole_reconcile_repairs", "Adapters whose rows were missing or too many in the index.", ("kind",)
)
RECONCILE_LAG_S = GaugeSpec(
    "ramole_reconcile_lag_seconds", "Seconds since something was left out of line with the store; 0 = nothing is."
)

_WATCHED = ("OK", "RESOURCE_EXHAUSTED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""Codes that alerts and dashboards look at."""


class GatewayMetrics:
    """Counts of one gateway.

    Args:
        names: hears by which names adapters are used.
    """

    def __init__(self, registry: CollectorRegistry, tenants: TenantNames, names: SeenNames | None = None) -> None:
        self._tenants = tenants
        self._names = names or SeenNames()
        self._answers = ANSWERS.on(registry)
        self._answer_s = ANSWER_S.on(registry)
        self._first_s = FIRST_S.on(registry)
        self._tokens = TOKENS.on(registry)
        self._stages = STAGE_S.on(registry)
        self._fallbacks = FALLBACKS.on(registry)
        self._uploads = UPLOADS.on(registry)
        self._upload_failures = UPLOAD_FAILURES.on(registry)
        # The first of a kind counts only if there was a series before it.
        for tenant in tenants:
            for code in _WATCHED:
                self._answers.labels(tenant, code)
        for reason in LABELS["reason"].values:
            self._upload_failures.labels(reason)
            self._fallbacks.labels(reason)

    @contextmanager
    def answer(self, tenant: str) -> Iterator[Callable[[Routing | TokenChunk | UsageReport], None]]:
        """Around one answer. Yields what is to be told every event of it."""
        started_s = time.perf_counter()
        name = self._tenants(tenant)
        code, has_begun = "CANCELLED", False

        def see(event: Routing | TokenChunk | UsageReport) -> None:
            nonlocal code, has_begun
            if isinstance(event, Routing):
                self._routed(event)
            elif isinstance(event, TokenChunk):
                self._tokens.labels(name, "completion").inc(len(event.token_ids))
                if not has_begun:
                    has_begun = True
                    self._first_s.observe(time.perf_counter() - started_s)
            else:
                self._tokens.labels(name, "prompt").inc(event.prompt_tokens)
                self._answer_s.observe(time.perf_counter() - started_s)
                code = "OK"

        try:
            yield see
        except Exception as error:
            code = code_of(error).name if isinstance(error, RamoleError) else "INTERNAL"
            raise
        finally:  # whoever stops reading before the report has cancelled
            self._answers.labels(name, code).inc()

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Around one upload."""
        reason = "CANCELLED"
        try:
            yield
            reason = ""
        except Exception as error:
            reason = error.reason() if isinstance(error, RamoleError) else Internal.reason()
            raise
        finally:
            (self._upload_failures.labels(reason) if reason else self._uploads).inc()

    def picked(self, seconds: float) -> None:
        """An executor was picked for an answer."""
        self._stages.labels(Stage.PICK).observe(seconds)

    def _routed(self, routing: Routing) -> None:
        self._names.saw(routing)
        if routing.embed_s:
            self._stages.labels(Stage.EMBED).observe(routing.embed_s)
            self._stages.labels(Stage.SEARCH).observe(routing.search_s)
        if routing.has_fallen_back:
            self._fallbacks.labels("RETRIEVAL_DOWN").inc()
        for each in routing.left_out:
            self._fallbacks.labels(each.reason).inc()


class UpkeepMetrics(Collector):
    """What `Upkeep` has done, read when it is asked for."""

    def __init__(self, registry: CollectorRegistry, upkeep: Upkeep) -> None:
        self._upkeep = upkeep
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        counts = self._upkeep.counts
        runs, repairs, lag = RECONCILES.family(), REPAIRS.family(), RECONCILE_LAG_S.family()
        runs.add_metric(["ok"], counts.num_done)
        runs.add_metric(["failed"], counts.num_failed)
        repairs.add_metric(["indexed"], counts.num_indexed)
        repairs.add_metric(["removed"], counts.num_removed)
        lag.add_metric([], self._upkeep.lag_s)
        yield from (runs, repairs, lag)
