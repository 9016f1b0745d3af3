"""Declarations of metrics: each once, with labels whose values are those that the code has."""

from __future__ import annotations

from itertools import chain

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

import metrics_page
from ramole.app.services import SERVICES
from ramole.core.errors import RamoleError
from ramole.core.settings import GatewaySettings, PlainSettings, TenantLimitSettings
from ramole.observability.specs import LABELS, OTHER, CounterSpec, HistogramSpec, TenantNames
from ramole.observability.tiers import Tier
from support.pages import ROOT


def subclasses(kind: type[RamoleError]) -> set[type[RamoleError]]:
    return set(chain(kind.__subclasses__(), *map(subclasses, kind.__subclasses__())))


def test_the_lists_of_values_are_those_of_the_code() -> None:
    assert LABELS["service"].values == set(SERVICES)
    assert LABELS["tier"].values == set(Tier)
    assert LABELS["code"].values == {code.name for code in grpc.StatusCode}
    ours = {kind.reason() for kind in subclasses(RamoleError) if kind.__module__.startswith("ramole.")}
    assert LABELS["reason"].values == ours | {"RETRIEVAL_DOWN"}


def test_every_declaration_is_on_the_page_once() -> None:
    specs = [spec for spec, _ in metrics_page.specs()]
    names = [spec.name for spec in specs]
    assert len(names) == len(set(names))
    page = metrics_page.metrics_page()
    for spec in specs:
        assert f"`{metrics_page.exported(spec)[0].removesuffix('_bucket')}`" in page
        assert spec.text in page


def test_the_page_looks_into_every_module_that_declares_metrics() -> None:
    services = ROOT / "services/ramole"
    declaring = {
        ".".join(path.relative_to(services).with_suffix("").parts)
        for path in services.rglob("*.py")
        if any(f"= {kind}(" in path.read_text() for kind in ("CounterSpec", "GaugeSpec", "HistogramSpec"))
    }
    assert declaring - {"observability.specs"} == set(metrics_page.MODULES)


def test_no_module_makes_a_metric_without_a_declaration() -> None:
    for path in (ROOT / "services").rglob("*.py"):
        if path.name not in ("specs.py", "pool.py"):  # what the latter tells, no Prometheus keeps
            text = path.read_text()
            assert "import Counter, Gauge" not in text, path
            assert "MetricFamily(" not in text, path


@pytest.mark.parametrize("spec", [("requests", "x", ()), ("ramole_x", "", ()), ("ramole_x", "x", ("request_id",))])
def test_a_label_that_nobody_has_bounded_cannot_be_declared(spec: tuple[str, str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="needs the prefix"):
        CounterSpec(*spec)


@given(
    st.lists(st.tuples(st.one_of(st.sampled_from((0.1, 0.5, 1.0)), st.floats(0, 10)), st.integers(1, 5)), max_size=20)
)
def test_a_tally_is_a_histogram(observed: list[tuple[float, int]]) -> None:
    spec = HistogramSpec("ramole_x_seconds", "Text.", buckets=(0.1, 0.5, 1.0, 5.0))
    fast, slow = CollectorRegistry(), CollectorRegistry()
    tally, histogram = spec.tally(fast), spec.on(slow)
    for value, times in observed:
        tally.observe(value, times)
        for _ in range(times):
            histogram.observe(value)

    def lines(registry: CollectorRegistry) -> dict[str, float]:
        text = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text if line[0] != "#")}

    assert lines(fast) == pytest.approx(lines(slow))


@given(st.text())
def test_a_tenant_that_no_setting_names_is_one_of_many(name: str) -> None:
    limits = {"acme": TenantLimitSettings(requests_in_flight=1)}
    names = TenantNames.of(PlainSettings(gateway=GatewaySettings(tenant_limits=limits)))
    assert names("acme") == "acme"
    assert list(names) == ["acme", OTHER]
    assert names(name) in set(names)
