"""What a metric is: declared once, beside what it measures, with labels from closed sets. Two exporters, one text.

    STEPS = HistogramSpec("ramole_step_seconds", "Seconds of one step.", buckets=SECONDS)
    steps = STEPS.on(registry)

Names are ``ramole_*``, units seconds and bytes. `docs/metrics_page.py` makes the reference of all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ramole.core.settings import Settings

CALL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Buckets of anything that takes a call's time."""
FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
"""Of the time to a first token, as other servers have them."""
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
"""Of the time between two tokens, and of one step."""
LOAD_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Of the time to bring an adapter closer."""
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Of things that are counted."""
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of parts of a whole."""

OTHER = "other"
"""The tenant of those whom no setting names."""


class Stage(StrEnum):
    """Where the time of an answer goes, in this order; the values of the label `stage`."""

    EMBED = "embed"
    SEARCH = "search"
    PICK = "pick"
    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"


class Bound(StrEnum):
    """What keeps the values of a label few."""

    CLOSED = "a fixed list"
    METHODS = "the calls and routes that this version has"
    TENANTS = "tenants that a setting names, else `other`"
    REPLICAS = "places of a machine: the smallest number that is free"
    PROCESS = "one value in each process"


@dataclass(frozen=True, slots=True)
class Label:
    """A label that metrics may have.

    Attributes:
        values: all that there are, where that is a fixed list.
    """

    bound: Bound
    values: frozenset[str] = frozenset()


def _closed(*values: str) -> Label:
    return Label(Bound.CLOSED, frozenset(values))


# The class names of core.errors and the codes of gRPC: both packages would have to be imported for their lists alone.
_REASONS = (
    *("INVALID_INPUT", "ADAPTER_REFUSED", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("WRONG_STATE", "ENCODER_MISMATCH", "EXPERT_UNAVAILABLE", "CONFLICT", "LIMIT_EXCEEDED", "UNAVAILABLE"),
    *("CANCELLED", "DEADLINE_EXCEEDED", "CORRUPT", "INTERNAL"),
)
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

LABELS = {
    "service": _closed("adapters", "embedding", "retrieval", "executor", "gateway"),
    "replica": Label(Bound.REPLICAS),
    "method": Label(Bound.METHODS),
    "code": _closed(*_CODES),
    "tenant": Label(Bound.TENANTS),
    "stage": _closed(*Stage),
    "tier": _closed("store", "disk", "host", "device"),
    "result": _closed("hit", "miss", "found", "empty", "ok", "failed"),
    "reason": _closed(*_REASONS, "RETRIEVAL_DOWN"),
    "kind": _closed("prompt", "completion", "prefill", "decode", "indexed", "removed", "asked", "reused"),
    "version": Label(Bound.PROCESS),
}
"""Every label; what is not here can be none. `service` and `replica` are the exporter's, on all series."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric.

    Attributes:
        name: without the suffixes that its type brings along.
        text: its help.
        labels: of `LABELS`.
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.startswith("ramole_") or not self.text or not LABELS.keys() >= set(self.labels):
            raise ValueError(f"{self.name} needs the prefix ramole_, a help text, and labels of LABELS")


@dataclass(frozen=True, slots=True)
class CounterSpec(Spec):
    """Something that only grows; exported with ``_total``."""

    def on(self, registry: CollectorRegistry) -> Counter:
        """Its instrument, of one service."""
        return Counter(self.name, self.text, self.labels, registry=registry)

    def family(self) -> CounterMetricFamily:
        """Its series, where they are read when they are asked for."""
        return CounterMetricFamily(self.name, self.text, labels=self.labels)


@dataclass(frozen=True, slots=True)
class GaugeSpec(Spec):
    """Something that is now."""

    def on(self, registry: CollectorRegistry) -> Gauge:
        """Its instrument, of one service."""
        return Gauge(self.name, self.text, self.labels, registry=registry)

    def family(self) -> GaugeMetricFamily:
        """Its series, where they are read when they are asked for."""
        return GaugeMetricFamily(self.name, self.text, labels=self.labels)


@dataclass(frozen=True, slots=True)
class HistogramSpec(Spec):
    """How something is distributed; exported with ``_bucket``, ``_sum`` and ``_count``."""

    buckets: tuple[float, ...] = CALL_S

    def on(self, registry: CollectorRegistry) -> Histogram:
        """Its instrument, of one service."""
        return Histogram(self.name, self.text, self.labels, buckets=self.buckets, registry=registry)

    def tally(self, registry: CollectorRegistry) -> Tally:
        """The same for one thread that observes very often, or many equal values at once. Has no labels."""
        tally = Tally(self)
        registry.register(tally)
        return tally


class Tally(Collector):
    """A histogram without locks: one thread observes, any other collects."""

    def __init__(self, spec: HistogramSpec) -> None:
        self._spec = spec
        self._counts = [0] * (len(spec.buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value`, so many times."""
        self._counts[bisect_left(self._spec.buckets, value)] += times
        self._sum += value * times

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        family = HistogramMetricFamily(self._spec.name, self._spec.text)
        ends = [*map(str, self._spec.buckets), "+Inf"]
        family.add_metric([], list(zip(ends, accumulate(self._counts), strict=True)), self._sum)
        yield family


class TenantNames:
    """The label of a tenant: its name if a setting names it, because names that come with keys are without bound."""

    def __init__(self, named: Collection[str]) -> None:
        self._named = frozenset(named)

    @classmethod
    def of(cls, settings: Settings) -> TenantNames:
        """Those who have limits, a share or a quota of their own."""
        gateway, executor, adapters = settings.gateway, settings.executor, settings.adapters
        return cls([*gateway.tenant_limits, *executor.tenant_weights, *adapters.tenant_quotas])

    def __iter__(self) -> Iterator[str]:
        """All values that there can be."""
        yield from (*sorted(self._named), OTHER)

    def __call__(self, tenant: str) -> str:
        """The value of the label."""
        return tenant if tenant in self._named else OTHER
