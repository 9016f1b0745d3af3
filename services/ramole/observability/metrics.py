"""What every server counts of its calls."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry

from ramole.observability.specs import CounterSpec, GaugeSpec, HistogramSpec

REQUESTS = CounterSpec("ramole_requests", "Calls that ended, by method and status code.", ("method", "code"))
REQUEST_S = HistogramSpec(
    "ramole_request_duration_seconds", "Seconds from the start of a call to its end.", ("method",)
)
IN_FLIGHT = GaugeSpec("ramole_requests_in_flight", "Calls that run now.", ("method",))
BUILD_INFO = GaugeSpec("ramole_build_info", "1 for each running service, with its version.", ("version",))


class RpcMetrics:
    """Count, latency and calls in flight of every method of one server, and which version it is.

    Args:
        registry: where the metrics live; each server or process has its own, nothing is registered globally.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = REQUESTS.on(registry)
        self._seconds = REQUEST_S.on(registry)
        self._inflight = IN_FLIGHT.on(registry)
        BUILD_INFO.on(registry).labels(version("ramole")).set(1)

    def started(self, method: str) -> None:
        """One call of `method` begins. Only names of registered methods may be given."""
        self._inflight.labels(method).inc()

    def ended(self, method: str, code: str, seconds: float) -> None:
        """The call ended with this status code name."""
        self._inflight.labels(method).dec()
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)
