"""Metrics of the adapter tiers: where weights were found, how long they took, how full each tier is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ramole.observability.specs import LOAD_S, CounterSpec, GaugeSpec, HistogramSpec

LOADS_S = HistogramSpec(
    "ramole_tier_load_duration_seconds",
    "Seconds to bring an adapter out of the store or the disk into host memory, or to write it into a slot of the "
    "device, as the host sees it: a GPU is not waited for. There is none for host memory.",
    ("tier",),
    LOAD_S,
)
LOOKUPS = CounterSpec("ramole_tier_requests", "Look-ups of an adapter in a tier.", ("tier", "result"))
EVICTIONS = CounterSpec("ramole_tier_evictions", "Adapters that made room for others.", ("tier",))
FAILURES = CounterSpec("ramole_tier_failures", "Failed loads, broken files, refused writes.", ("tier",))
ENTRIES = GaugeSpec("ramole_tier_entries", "Adapters in a tier.", ("tier",))
BYTES = GaugeSpec("ramole_tier_bytes", "Bytes of the adapters in a tier; on the device as they were read.", ("tier",))


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
        self._seconds = LOADS_S.on(registry)
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
        requests, evictions, failures = LOOKUPS.family(), EVICTIONS.family(), FAILURES.family()
        entries, num_bytes = ENTRIES.family(), BYTES.family()
        for watched, read in list(self._counts.items()):
            tier, counts = watched.value, read()
            requests.add_metric([tier, "hit"], counts.hits)
            requests.add_metric([tier, "miss"], counts.misses)
            evictions.add_metric([tier], counts.evictions)
            failures.add_metric([tier], counts.failures)
            if watched in self._sized:
                entries.add_metric([tier], counts.num_entries)
                num_bytes.add_metric([tier], counts.num_bytes)
        yield from (requests, evictions, failures, entries, num_bytes)
