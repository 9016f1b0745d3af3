"""Which calls are traced, what their spans hold, and what becomes of them when the collector takes none."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from ramole.app.tracing import tracing_of
from ramole.core.call import CallContext, call_scope, current_call, traced
from ramole.core.settings import TracingSettings
from ramole.core.trace import NO_TRACE, Trace
from ramole.observability.tracing import OpenTelemetry
from support.otlp_receiver import otlp_receiver
from support.server_process import free_port

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
FLAGGED = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01", "tracestate": "vendor=1"}
UNFLAGGED = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00"}
ALL, NONE = TracingSettings(sampling_ratio=1.0), TracingSettings(sampling_ratio=0.0, wishes_per_minute=0)
ENDPOINT = "http://127.0.0.1:4317"


class Traced:
    """The tracing of one service, with its spans in memory."""

    def __init__(self, settings: TracingSettings = ALL, *, is_edge: bool = True) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = OpenTelemetry("gateway", "1", self._exporter, settings, is_edge=is_edge)

    def begin(self, metadata: Mapping[str, str] | None = None, tenant: str = "acme", method: str = "/x.Y/Z") -> Trace:
        return self.tracing.begin(method, metadata or {}, tenant=tenant, request_id="r-1", since_s=time.monotonic())

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """All of them, at the end."""
        self.tracing.close()
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("ramole")
    before = logger.propagate
    logger.propagate = True
    yield caplog
    logger.propagate = before


@pytest.mark.parametrize(
    ("settings", "is_edge", "metadata", "is_kept", "trace_id"),
    [
        (ALL, True, {}, True, None),
        (ALL, True, UNFLAGGED, True, TRACE_ID),
        (NONE, True, {}, False, ""),
        (NONE, True, UNFLAGGED, False, TRACE_ID),
        (NONE, True, FLAGGED, False, TRACE_ID),
        (TracingSettings(sampling_ratio=0.0), True, FLAGGED, True, TRACE_ID),
        (TracingSettings(sampling_ratio=0.0), True, {"traceparent": "00-zz-1-01"}, False, ""),
        (ALL, False, {}, False, ""),
        (ALL, False, UNFLAGGED, False, TRACE_ID),
        (NONE, False, FLAGGED, True, TRACE_ID),
    ],
)
def test_the_edge_decides_and_what_is_behind_follows(
    settings: TracingSettings, is_edge: bool, metadata: dict[str, str], is_kept: bool, trace_id: str | None
) -> None:
    house = Traced(settings, is_edge=is_edge)
    trace = house.begin(metadata)
    assert trace.is_kept is is_kept
    assert trace.trace_id == trace_id or trace_id is None
    passed = dict(trace.metadata).get("traceparent", "")
    assert passed[3:35] == trace.trace_id
    assert int(passed[-2:] or "0", 16) & 1 == is_kept  # the second bit says that the id is random
    trace.end()
    assert len(house.spans) == is_kept


def test_no_client_has_everything_traced() -> None:
    house = Traced(TracingSettings(sampling_ratio=0.0, wishes_per_minute=3))
    kept = [house.begin(FLAGGED, tenant).is_kept for tenant in ("acme", "other") for _ in range(50)]
    # Each tenant has its own, so that no stranger takes another's; a minute may end in between.
    assert 3 <= sum(kept[:50]) <= 6
    assert 3 <= sum(kept[50:]) <= 6
    house.tracing.close()


def test_the_ratio_is_drawn_and_not_read_from_an_id_that_clients_choose() -> None:
    numbers = iter([0.0, 0.4, 0.5, 0.9] * 2)
    chosen = TracingSettings(sampling_ratio=0.5, wishes_per_minute=0)
    tracing = OpenTelemetry("g", "1", InMemorySpanExporter(), chosen, is_edge=True, draw=lambda: next(numbers))
    low = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
    for metadata in ({}, low):
        kept = [tracing.begin("m", metadata, tenant="t", request_id="r", since_s=0.0).is_kept for _ in range(4)]
        assert kept == [True, True, False, False]
    tracing.close()


@settings(max_examples=30)
@given(st.text(max_size=80), st.text(max_size=80))
def test_what_clients_call_a_context_never_fails_a_call(parent: str, state: str) -> None:
    tracing = _NEVER.tracing
    for metadata in ({"traceparent": parent}, {**FLAGGED, "tracestate": state}):
        trace = tracing.begin("m", metadata, tenant="t", request_id="r", since_s=0.0)
        assert trace.trace_id in ("", TRACE_ID)
        assert all(value.isprintable() for _, value in trace.metadata)


_NEVER = Traced(NONE)


async def test_what_a_call_does_is_inside_of_its_span() -> None:
    house = Traced()
    call = CallContext.begin("r-1")
    root = house.begin(FLAGGED)
    with call_scope(CallContext(call.request_id, trace=root)):

        async def find() -> None:
            with traced("search", k=3):
                inner = current_call().trace.begin("/ramole.v1.Retrieval/Search", kind="client")
                inner.end("UNAVAILABLE")

        with traced("embed"):
            pass
        with pytest.raises(ValueError, match="no vector"), traced("odd"):
            raise ValueError("no vector")
        await asyncio.gather(find())
    now = time.monotonic()
    root.note("queue", now - 2, now - 1, {"overtaken": 2})
    root.end("NOT_FOUND")
    spans = house.spans
    ids = {name: span.context.span_id for name, span in spans.items()}
    assert {name: span.parent.span_id for name, span in spans.items() if span.parent} == {
        "x.Y/Z": int(FLAGGED["traceparent"][36:52], 16),
        "embed": ids["x.Y/Z"],
        "odd": ids["x.Y/Z"],
        "search": ids["x.Y/Z"],
        "ramole.v1.Retrieval/Search": ids["search"],
        "queue": ids["x.Y/Z"],
    }
    assert {span.context.trace_id for span in spans.values()} == {int(TRACE_ID, 16)}
    server, client, queue = spans["x.Y/Z"], spans["ramole.v1.Retrieval/Search"], spans["queue"]
    assert dict(server.attributes or {}) == {
        "ramole.tenant": "acme", "ramole.request_id": "r-1", "ramole.code": "NOT_FOUND",
        "rpc.system": "grpc", "rpc.service": "x.Y", "rpc.method": "Z",
    }  # fmt: skip
    assert (server.status.is_unset, client.status.is_ok, spans["odd"].status.is_ok) == (True, False, False)
    assert spans["odd"].status.description is None
    assert not spans["odd"].events
    assert dict(queue.attributes or {}) == {"ramole.overtaken": 2}
    assert queue.end_time is not None
    assert queue.start_time is not None
    assert abs(queue.end_time - queue.start_time - 10**9) < 10**3
    assert server.resource.attributes["service.name"] == "ramole.gateway"


def test_the_parts_of_an_http_route_have_their_own_names() -> None:
    house = Traced()
    house.begin(method="POST /v1/completions").end()
    [span] = house.spans.values()
    assert span.name == "POST /v1/completions"
    assert {key: value for key, value in (span.attributes or {}).items() if key.startswith("http")} == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
    }


def test_a_stop_sends_what_is_left() -> None:
    with otlp_receiver() as (receiver, endpoint):
        chosen = TracingSettings(otlp_endpoint=endpoint, sampling_ratio=1.0, headers={"Authorization": "Bearer x"})
        tracing = tracing_of(chosen, "gateway", is_edge=True)
        for _ in range(700):
            tracing.begin("/a.B/C", {}, tenant="t", request_id="r", since_s=time.monotonic()).end()
        tracing.close()
        assert len({span.span_id for span in receiver.spans}) == 700
        assert {(span.service, span.name, span.parent) for span in receiver.spans} == {("ramole.gateway", "a.B/C", "")}
        assert receiver.metadata["authorization"] == "Bearer x"
    tracing.begin("/a.B/C", {}, tenant="t", request_id="r", since_s=0.0).end()  # what ends after it is lost


def test_without_a_collector_little_is_kept_and_one_line_says_so(log: pytest.LogCaptureFixture) -> None:
    chosen = TracingSettings(otlp_endpoint=f"http://127.0.0.1:{free_port()}", sampling_ratio=1.0)
    tracing = tracing_of(chosen, "gateway", is_edge=True)
    began_s = time.monotonic()
    for _ in range(5000):
        tracing.begin("/a.B/C", {}, tenant="t", request_id="r", since_s=0.0).end()
    took_s = time.monotonic() - began_s
    processor: Any = tracing._provider._active_span_processor._span_processors[0]  # type: ignore[attr-defined]
    assert len(processor._batch_processor._queue) <= 2048
    tracing.close()
    ours = [record for record in log.records if record.name.startswith("ramole")]
    assert [record.message for record in ours] == ["the collector took no spans; they are lost"]
    assert ours[0].fields["code"] in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")  # type: ignore[attr-defined]
    assert took_s < 60  # nobody waited for the collector: of 5000 spans each would have for seconds


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "grpc://h:1", "http://", "http://h:1/v1/traces", "h"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="address of a collector"):
        TracingSettings(otlp_endpoint=endpoint)


def test_off_is_nothing_at_all() -> None:
    tracing = tracing_of(TracingSettings(), "gateway", is_edge=True)
    assert tracing.begin("m", FLAGGED, tenant="t", request_id="r", since_s=0.0) is NO_TRACE
    program = (
        "import sys\n"
        "from ramole.app.tracing import tracing_of\n"
        "import ramole.transport.server, ramole.app.local, ramole.gateway.servicer\n"
        "from ramole.core.settings import TracingSettings\n"
        "tracing_of(TracingSettings(), 'gateway', is_edge=True).close()\n"
        "print(*[name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
