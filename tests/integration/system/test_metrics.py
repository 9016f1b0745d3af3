"""Prometheus reads the same from a system on Ray and from one in a single process, and can use what is shipped."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

import metrics_page
import picture
from ramole.client.client import RamoleClient
from ramole.core.errors import RamoleError
from ramole.core.settings import MetricsSettings
from ramole.lab.chaos.traffic import write_variant
from ramole.observability.specs import LABELS, OTHER, HistogramSpec
from ramole.v1 import adapters_pb2, embedding_pb2, executor_pb2, gateway_pb2, retrieval_pb2
from ramole.zoo.catalog import Zoo
from support.local_system import local_system
from support.prometheus import prometheus_of, rules, runbook_expressions, shown
from support.server_process import ServerProcess, free_port

Families = dict[str, Metric]

FILES = (gateway_pb2, adapters_pb2, embedding_pb2, executor_pb2, retrieval_pb2)
KINDS = {"CounterSpec": "counter", "GaugeSpec": "gauge", "HistogramSpec": "histogram"}
NAMED = "acme"


def scrape(port: int) -> Families:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {each.name: each for each in text_string_to_metric_families(text)}


def value(families: Families, name: str, **labels: str) -> float:
    samples = [sample for family in families.values() for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def figures(families: Families) -> tuple[float, ...]:
    """Of what `use` does."""
    return (
        value(families, "ramole_tier_requests_total", service="executor", tier="device", result="hit"),
        value(families, "ramole_tier_load_duration_seconds_count", service="executor", tier="store"),
        value(families, "ramole_answers_total", service="gateway", code="OK", tenant=OTHER),
        value(families, "ramole_uploads_total", service="gateway"),
        value(families, "ramole_step_duration_seconds_count", service="executor"),
        value(families, "ramole_stage_duration_seconds_count", service="gateway", stage="search"),
        value(families, "ramole_stage_duration_seconds_count", service="executor", stage="decode"),
        value(families, "ramole_batch_mask_density_sum", service="executor"),
    )


async def use(address: str, zoo: Zoo, name: str) -> None:
    """Uploads a content that no server has met, generates with the adapter by name and by prompt, deletes."""
    adapter = zoo.adapters[0]
    async with RamoleClient(address) as client:
        with TemporaryDirectory() as folder:
            write_variant(adapter.path, Path(folder), secrets.token_hex(8))
            await client.upload(folder, adapter.samples, adapter=name)
        for named in ([name], [name], None):
            await client.complete(adapter.prompts[0].prompt, adapters=named or ())
        await client.delete(name)


async def families_after_use(address: str, port: int, zoo: Zoo) -> Families:
    before = figures(await asyncio.to_thread(scrape, port))
    await use(address, zoo, "metrics/measured")
    deadline = time.monotonic() + 60
    while True:
        families = await asyncio.to_thread(scrape, port)
        if all(now > then for now, then in zip(figures(families), before, strict=True)):
            return families
        assert time.monotonic() < deadline, (before, figures(families))
        await asyncio.sleep(0.2)  # the processes of one machine tell each other every 2 s


async def test_ray_and_a_single_process_tell_the_same(system: ServerProcess, tmp_path: Path, zoo: Zoo) -> None:
    metrics = MetricsSettings(port=free_port())
    async with local_system(tmp_path, metrics=metrics) as alone:
        local = await families_after_use(alone.address, metrics.port, zoo)
    on_ray = await families_after_use(system.address, system.metrics_port, zoo)
    assert {name: family.type for name, family in local.items()} == {n: f.type for n, f in on_ray.items()}
    for families in (local, on_ray):
        assert families.keys() == {spec.name for spec, _ in metrics_page.specs()}
        for spec, services in metrics_page.specs():
            family = families[spec.name]
            assert family.type == KINDS[type(spec).__name__]
            assert {sample.name for sample in family.samples} == set(metrics_page.exported(spec))
            everyone = services == "every service"
            where = LABELS["service"].values if everyone else set(services.split(", "))
            assert {sample.labels["service"] for sample in family.samples} <= where, spec.name
            for sample in family.samples:
                assert sample.labels.keys() == {*spec.labels, "service", "replica"} | (
                    {"le"} if sample.name.endswith("_bucket") else set()
                )
            if isinstance(spec, HistogramSpec):
                ends = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
                assert ends == {*spec.buckets, float("inf")}


def methods_of(families: Families) -> set[str]:
    """What the label `method` may be: the calls of all services, and the routes of the HTTP port."""
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    calls = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    streams = {"/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}
    told = {sample.labels["method"] for sample in families["ramole_requests"].samples}
    return calls | streams | {method for method in told if re.fullmatch(r"[A-Z]+ /(metrics|v1/[a-z_/{}:]*)", method)}


async def test_no_label_takes_what_clients_make_up(system: ServerProcess) -> None:
    loop = asyncio.get_running_loop()
    text = st.text(min_size=1, max_size=30)
    path = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)

    @given(name=text, path=path)
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(name: str, path: str) -> None:
        """In a thread, as hypothesis is no coroutine."""
        asyncio.run_coroutine_threadsafe(tried(name, path), loop).result(60)

    async with RamoleClient(system.address) as client, grpc.aio.insecure_channel(system.address) as channel:

        async def tried(name: str, path: str) -> None:
            for call in (
                client.complete("x", adapters=[name]),
                client.get(name),
                client.delete(name),
                channel.unary_unary(f"/ramole.v1.Gateway/{path}")(b""),
                channel.unary_unary(f"/{path}/Generate")(b"", metadata=(("x-request-id", path),)),
            ):
                try:
                    await call
                except (RamoleError, grpc.aio.AioRpcError):
                    continue

        await asyncio.to_thread(ask)
    await asyncio.sleep(2.5)  # longer than the processes take to tell each other
    families = await asyncio.to_thread(scrape, system.metrics_port)
    assert value(families, "ramole_requests_total", method="/ramole.v1.Gateway/GetAdapter") >= 1
    assert_bounded(families)


def assert_bounded(families: Families) -> None:
    allowed: dict[str, Any] = {name: label.values for name, label in LABELS.items() if label.values}
    allowed |= {"tenant": {NAMED, OTHER}, "replica": set("01234567"), "method": methods_of(families)}
    for family in families.values():
        for sample in family.samples:
            for label, told in sample.labels.items():
                if label == "version":
                    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", told)
                elif label != "le":
                    assert told in allowed[label], f"{sample.name}: {label}={told!r}"
    assert sum(len(family.samples) for family in families.values()) < 4000


async def test_prometheus_reads_it_with_what_is_shipped(system: ServerProcess, tmp_path: Path, zoo: Zoo) -> None:
    loop = asyncio.get_running_loop()

    def look() -> None:
        with prometheus_of(system.metrics_port, tmp_path) as prometheus:
            prometheus.until("count_over_time(ramole_answers_total[1m]) > 1")
            asyncio.run_coroutine_threadsafe(use(system.address, zoo, "metrics/scraped"), loop).result(60)
            first = "ramole_time_to_first_token_seconds"
            [(_, late)] = prometheus.until(f"histogram_quantile(0.99, sum by (le) (rate({first}_bucket[1m]))) > 0")
            assert late < 80
            assert prometheus.until(f"rate({first}_sum[1m]) / rate({first}_count[1m]) > 0")
            types = {name: found[0]["type"] for name, found in prometheus.get("metadata").items()}
            for spec, _ in metrics_page.specs():
                assert types[spec.name] == KINDS[type(spec).__name__]
            # Every expression that is shipped can be worked out, and all but a few have figures.
            silent = prometheus.silent((*shown(), *runbook_expressions().values()))
            assert all("ALERTS" in each or ":ratio_rate" in each for each in silent), silent
            picture.draw(prometheus.url, 60, str(tmp_path / "panels.svg"))
            assert all(title in (tmp_path / "panels.svg").read_text() for _, title in picture.SHOWN)
            prometheus.until("job:ramole_answer_errors:ratio_rate5m >= 0")
            told = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
            assert len(told) == len(rules())
            assert {rule["health"] for rule in told} == {"ok"}

    await asyncio.to_thread(look)
