"""The one facade for metrics: names ``ramole_*``, units seconds and bytes, labels from bounded sets only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class RpcMetrics:
    """Count, latency and calls in flight of every method of one server.

    Args:
        registry: where the metrics live; each server or process has its own, nothing is registered globally.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "ramole_rpc_calls", "Calls that ended, by method and status code.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "ramole_rpc_seconds",
            "Seconds from the start of a call to its end.",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._inflight = Gauge("ramole_rpc_inflight", "Calls that run now.", ["method"], registry=registry)

    def started(self, method: str) -> None:
        """One call of `method` begins. Only names of registered methods may be given."""
        self._inflight.labels(method).inc()

    def ended(self, method: str, code: str, seconds: float) -> None:
        """The call ended with this status code name."""
        self._inflight.labels(method).dec()
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)
