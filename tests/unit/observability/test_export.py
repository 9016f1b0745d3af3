"""The way to Prometheus: one port for many services, in one process or in many."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ramole.core.address import join_address
from ramole.core.errors import WrongState
from ramole.core.settings import MetricsSettings
from ramole.observability.export import Exposition, Shared, serve_metrics
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
    assert text.count("# TYPE ramole_tier_load_duration_seconds histogram") == 1
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}
    assert len(found) == len(samples), "one series twice"
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_services_of_a_process_are_one_exposition(exposition: Exposition, host: str) -> None:
    settings = MetricsSettings(host=host, port=free_port())
    stop = serve_metrics(exposition, settings)
    try:
        series = scraped(settings)
    finally:
        stop()
    hits = {
        dict(labels)["service"]: v
        for (name, labels), v in series.items()
        if name == "ramole_tier_requests_total" and dict(labels)["result"] == "hit"
    }
    assert hits == {"adapters": 3, "executor": 5}
    labels = (("le", "0.5"), ("replica", "0"), ("service", "executor"), ("tier", "store"))
    assert series["ramole_tier_load_duration_seconds_bucket", labels] == 1
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


def registry_with(hits: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    tiers = TierMetrics(registry)
    tiers.watch(Tier.DISK, lambda: TierCounts(hits=hits))
    tiers.loaded(Tier.STORE, 0.3)
    return registry


def hits_by_replica(settings: MetricsSettings) -> dict[tuple[str, str], float]:
    """Service and replica -> hits; waits for the port."""
    deadline = time.monotonic() + 20
    while True:
        try:
            series = scraped(settings)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    return {
        (dict(labels)["service"], dict(labels)["replica"]): value
        for (name, labels), value in series.items()
        if name == "ramole_tier_requests_total" and dict(labels)["result"] == "hit"
    }


def test_processes_of_one_machine_answer_at_one_port_whoever_of_them_lives(tmp_path: Path) -> None:
    settings = MetricsSettings(port=free_port())
    replicas = [
        Shared(service, registry_with(hits), settings, tmp_path)
        for service, hits in (("executor", 1), ("executor", 2), ("adapters", 3))
    ]
    for each in replicas:
        each.start()
    try:
        everyone = {("executor", "0"): 1.0, ("executor", "1"): 2.0, ("adapters", "0"): 3.0}
        assert hits_by_replica(settings) == everyone
        replicas[0].stop()  # it holds the port; its place and its series go with it
        del everyone["executor", "0"]
        assert hits_by_replica(settings) == everyone
        replicas.append(Shared("executor", registry_with(7), settings, tmp_path))
        replicas[-1].start()
        assert hits_by_replica(settings) == {**everyone, ("executor", "0"): 7.0}
    finally:
        for each in replicas:
            each.stop()
    assert not list(tmp_path.glob("*.json"))


def test_a_killed_process_leaves_no_series_and_its_place_to_the_next(tmp_path: Path) -> None:
    settings = MetricsSettings(port=free_port())
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from prometheus_client import CollectorRegistry\n"
        "from ramole.core.settings import MetricsSettings\n"
        "from ramole.observability.export import Shared\n"
        "from ramole.observability.metrics import RpcMetrics\n"
        "registry = CollectorRegistry()\n"
        "RpcMetrics(registry)\n"
        "Shared('executor', registry, MetricsSettings(port=int(sys.argv[1])), Path(sys.argv[2])).start()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(settings.port), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert (tmp_path / "executor-0.json").exists()
            beside = Shared("executor", registry_with(4), settings, tmp_path)
            beside.start()
        finally:
            process.kill()
    process.wait()
    try:
        assert hits_by_replica(settings) == {("executor", "1"): 4.0}
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.port}/metrics", timeout=10) as answer:
            assert b'ramole_build_info{replica="0"' not in answer.read()
        after = Shared("executor", registry_with(5), settings, tmp_path)
        after.start()
        assert hits_by_replica(settings) == {("executor", "0"): 5.0, ("executor", "1"): 4.0}
        after.stop()
    finally:
        beside.stop()


class Moody(Collector):
    """Fails when it shall."""

    is_cross = False

    def collect(self) -> Iterator[Metric]:
        if self.is_cross:
            raise RuntimeError("not now")
        yield GaugeMetricFamily("ramole_moody", "Text.", value=1.0)


def test_a_figure_that_fails_once_is_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry, moody, settings = CollectorRegistry(), Moody(), MetricsSettings(port=free_port())
    registry.register(moody)
    shared = Shared("executor", registry, settings, tmp_path)
    shared.start()
    deadline = time.monotonic() + 30
    moody.is_cross = True
    while "not now" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    written = (tmp_path / "executor-0.json").stat().st_mtime_ns
    moody.is_cross = False
    while (tmp_path / "executor-0.json").stat().st_mtime_ns == written:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shared.stop()


def test_the_folder_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    shared = Shared("executor", registry_with(1), MetricsSettings(port=free_port()), tmp_path / "link")
    with pytest.raises(WrongState) as raised:
        shared.start()
    assert raised.value.field == "metrics.port"
    shared.stop()


def test_a_port_that_nobody_of_the_system_has_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        shared = Shared("executor", registry_with(1), MetricsSettings(port=taken.getsockname()[1]), tmp_path)
        shared.start()
        deadline = time.monotonic() + 20
        while "Prometheus finds nothing here" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        shared.stop()
