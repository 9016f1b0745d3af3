"""The metrics of a process on their way to Prometheus: over HTTP, or through whatever collects them for the machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ramole.core.address import join_address
from ramole.core.errors import WrongState
from ramole.core.settings import MetricsSettings

_PERIOD_S = 2.0

_log = logging.getLogger(__name__)


class Exposition(Collector):
    """The registries of all services of a process as one. The label ``service`` tells them apart."""

    def __init__(self) -> None:
        self._registries: dict[str, CollectorRegistry] = {}

    def add(self, service: str, registry: CollectorRegistry) -> None:
        """From now on `registry` is part of it."""
        self._registries[service] = registry

    def collect(self) -> Iterator[Metric]:
        """Families of one name from different services are one family."""
        families: dict[str, Metric] = {}
        for service, registry in self._registries.items():
            for found in registry.collect():
                family = families.setdefault(
                    found.name, Metric(found.name, found.documentation, found.type, found.unit)
                )
                for sample in found.samples:
                    if not sample.name.endswith("_created"):
                        family.add_sample(sample.name, {**sample.labels, "service": service}, sample.value)
        yield from families.values()


def as_text(exposition: Exposition) -> bytes:
    """What Prometheus reads, in its text format."""
    registry = CollectorRegistry()
    registry.register(exposition)
    return generate_latest(registry)


class MetricSink(Protocol):
    """Takes samples one by one, and brings them to Prometheus."""

    def set(self, name: str, description: str, labels: Mapping[str, str], value: float) -> None:
        """The newest value of one series."""


def hand_over(exposition: Exposition, sink: MetricSink) -> None:
    """Gives every sample to `sink`."""
    for family in exposition.collect():
        for sample in family.samples:
            sink.set(sample.name, family.documentation, sample.labels, sample.value)


async def push(exposition: Exposition, sink: MetricSink) -> None:
    """Hands over again and again, until it is cancelled."""
    while True:
        hand_over(exposition, sink)
        await asyncio.sleep(_PERIOD_S)


def serve_metrics(exposition: Exposition, settings: MetricsSettings) -> Callable[[], None]:
    """Answers ``GET /metrics``, unless the port is 0. Returns what ends it.

    Raises:
        WrongState: the port is taken.
    """
    if not settings.port:
        return lambda: None
    registry = CollectorRegistry()
    registry.register(exposition)
    address = join_address(settings.host, settings.port)
    try:
        server, thread = start_http_server(settings.port, settings.host, registry)
    except OSError as error:
        raise WrongState(
            f"cannot listen on {address}: {error.strerror}",
            field="metrics.port",
            remedy="choose another port, or 0 for none",
        ) from error
    _log.info("metrics at http://%s/metrics", address)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
