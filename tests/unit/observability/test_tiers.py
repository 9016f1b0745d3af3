"""Tier metrics: the names that dashboards use, and labels that no adapter can multiply."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from ramole.observability.tiers import Tier, TierCounts, TierMetrics


def test_every_tier_reports_under_the_same_names() -> None:
    registry = CollectorRegistry()
    metrics = TierMetrics(registry)
    counts = TierCounts(hits=3, misses=2, evictions=1, failures=4, num_entries=5, num_bytes=600)
    metrics.watch(Tier.HOST, lambda: counts)
    metrics.watch(Tier.DEVICE, lambda: TierCounts(hits=7))
    metrics.watch(Tier.STORE, lambda: TierCounts(hits=2), is_sized=False)
    metrics.loaded(Tier.DISK, 0.02)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"ramole_tier_{name}", labels)

    assert value("requests_total", tier="host", result="hit") == 3
    assert value("requests_total", tier="host", result="miss") == 2
    assert value("requests_total", tier="device", result="hit") == 7
    assert value("evictions_total", tier="host") == 1
    assert value("failures_total", tier="host") == 4
    assert value("entries", tier="host") == 5
    assert value("bytes", tier="host") == 600
    assert value("requests_total", tier="store", result="hit") == 2
    assert value("entries", tier="store") is value("bytes", tier="store") is None
    assert value("load_duration_seconds_count", tier="disk") == 1
    assert value("load_duration_seconds_bucket", tier="disk", le="0.025") == 1
    counts.hits += 1
    assert value("requests_total", tier="host", result="hit") == 4
    assert b"ramole_tier_load_duration_seconds" in generate_latest(registry)
