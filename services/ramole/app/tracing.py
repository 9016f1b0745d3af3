"""Whether the calls of a service are traced, as the settings say. Without an endpoint OpenTelemetry is not imported."""

from __future__ import annotations

from importlib.metadata import version

from ramole.core.settings import TracingSettings
from ramole.core.trace import NoTracing, Tracing


def tracing_of(settings: TracingSettings, service: str, *, is_edge: bool) -> Tracing:
    """The tracing of one service, which whoever serves it closes.

    Raises:
        WrongState: the certificate of the collector cannot be read.
    """
    if not settings.is_on:
        return NoTracing()
    from ramole.observability.tracing import OpenTelemetry, OtlpExporter

    exporter = OtlpExporter(settings)
    return OpenTelemetry(service, version("ramole"), exporter, settings, is_edge=is_edge, closing=exporter.hurry)
