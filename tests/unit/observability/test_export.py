"""The way to Prometheus: one exposition for many services, over HTTP or into a sink, under the same names."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ramole.core.address import join_address
from ramole.core.errors import WrongState
from ramole.core.settings import MetricsSettings
from ramole.observability.export import Exposition, hand_over, serve_metrics
from ramole.observability.metrics import RpcMetrics
from ramole.observability.tiers import Tier, TierCounts, TierMetrics
from support.server_process import free_port

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def exposition() -> Exposition:
    """Two services with metrics of the same names and labels."""
    made = Exposition()
    for service, hits in (("adapters", 3), ("executor", 5)):
        registry = CollectorRegistry()
        calls = RpcMetrics(registry)
        calls.started("/ramole.v1.X/Get")
        calls.ended("/ramole.v1.X/Get", "OK", 0.02)
        tiers = TierMetrics(registry)
        tiers.watch(Tier.DISK, lambda hits=hits: TierCounts(hits=hits))  # type: ignore[misc]
        tiers.loaded(Tier.STORE, 0.3)
        made.add(service, registry)
    return made


def scraped(settings: MetricsSettings) -> Series:
    with urllib.request.urlopen(f"http://{join_address(settings.host, settings.port)}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert text.count("# TYPE ramole_tier_load_seconds histogram") == 1
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}
    assert len(found) == len(samples), "one series twice"
    return found


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.series: Series = {}

    def set(self, name: str, description: str, labels: Mapping[str, str], value: float) -> None:
        assert description
        self.series[name, tuple(sorted(labels.items()))] = value


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_both_ways_give_the_same_series(exposition: Exposition, host: str) -> None:
    settings = MetricsSettings(host=host, port=free_port())
    stop = serve_metrics(exposition, settings)
    try:
        series = scraped(settings)
    finally:
        stop()
    sink = Sink()
    hand_over(exposition, sink)
    assert sink.series == series
    hits = {
        dict(labels)["service"]: v
        for (name, labels), v in series.items()
        if name == "ramole_tier_requests_total" and dict(labels)["result"] == "hit"
    }
    assert hits == {"adapters": 3, "executor": 5}
    key = ("ramole_tier_load_seconds_bucket", (("le", "0.5"), ("service", "executor"), ("tier", "store")))
    assert series[key] == 1
    with pytest.raises(OSError, match="refused"):
        scraped(settings)


def test_a_taken_port_is_an_error_that_names_the_setting(exposition: Exposition) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(WrongState) as raised:
            serve_metrics(exposition, MetricsSettings(port=taken.getsockname()[1]))
    assert raised.value.field == "metrics.port"


def test_port_0_is_no_endpoint(exposition: Exposition) -> None:
    serve_metrics(exposition, MetricsSettings())()
