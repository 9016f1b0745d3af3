"""Metrics inside a Ray process: Ray's agent collects them and answers Prometheus, once for each machine.

All series are gauges to Ray, so that they keep their names: counters and the buckets of a histogram arrive as what
they have counted so far, and `rate` and `histogram_quantile` work on them as always. Ray puts ``ray_`` before each.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge


class RayMetrics:
    """See `observability.export.MetricSink`."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, description: str, labels: Mapping[str, str], value: float) -> None:
        """The newest value of one series."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(name, description, tuple(labels))
        gauge.set(value, dict(labels))
