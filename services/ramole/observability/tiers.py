"""Metrics of the adapter tiers: where weights were found, how long they took, how full each tier is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Tier(StrEnum):
    """From far and large to near and small; the values of the label `tier`."""

    STORE = "store"
    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


@dataclass(slots=True)
class TierCounts:
    """One tier so far.

    Attributes:
        hits: look-ups that it answered.
        misses: look-ups that it could not answer.
        evictions: adapters that made room for others.
        failures: loads that failed, broken files, writes that the disk refused.
        num_entries: adapters in it now.
        num_bytes: of these; on the device as they were read, because slots have one size whatever they hold.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    failures: int = 0
    num_entries: int = 0
    num_bytes: int = 0


class TierMetrics(Collector):
    """Every tier of one process under the names ``ramole_tier_*``, with the label `tier` and nothing unbounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: dict[Tier, Callable[[], TierCounts]] = {}
        self._sized: set[Tier] = set()
        self._seconds = Histogram(
            "ramole_tier_load_seconds",
            "Seconds to bring an adapter out of the store or the disk into host memory, or to write it into a slot of "
            "the device, as the host sees it: a GPU is not waited for. There is none for host memory.",
            ["tier"],
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(self)

    def watch(self, tier: Tier, counts: Callable[[], TierCounts], *, is_sized: bool = True) -> None:
        """Reports a tier from now on; `counts` is called from any thread.

        Args:
            is_sized: whether it counts its entries and bytes; otherwise there are no series of them.
        """
        self._counts[tier] = counts
        if is_sized:
            self._sized.add(tier)

    def loaded(self, tier: Tier, seconds: float) -> None:
        """One adapter came out of the store or the disk into host memory, or from there into a slot of the device."""
        self._seconds.labels(tier.value).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        requests = CounterMetricFamily(
            "ramole_tier_requests", "Look-ups of an adapter in a tier.", labels=["tier", "result"]
        )
        evictions = CounterMetricFamily("ramole_tier_evictions", "Adapters that made room for others.", labels=["tier"])
        failures = CounterMetricFamily(
            "ramole_tier_failures", "Failed loads, broken files, refused writes.", labels=["tier"]
        )
        entries = GaugeMetricFamily("ramole_tier_entries", "Adapters in a tier.", labels=["tier"])
        num_bytes = GaugeMetricFamily(
            "ramole_tier_bytes", "Bytes of the adapters in a tier; on the device as they were read.", labels=["tier"]
        )
        for watched, read in self._counts.items():
            tier, counts = watched.value, read()
            requests.add_metric([tier, "hit"], counts.hits)
            requests.add_metric([tier, "miss"], counts.misses)
            evictions.add_metric([tier], counts.evictions)
            failures.add_metric([tier], counts.failures)
            if watched in self._sized:
                entries.add_metric([tier], counts.num_entries)
                num_bytes.add_metric([tier], counts.num_bytes)
        yield from (requests, evictions, failures, entries, num_bytes)
