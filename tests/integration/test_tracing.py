"""The whole system sends its spans to a collector: one trace of one answer, from admission to its last token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx

from ramole.client import RamoleClient
from ramole.core.settings import TracingSettings
from ramole.zoo.catalog import Zoo
from support.local_system import local_system
from support.otlp_receiver import Span, otlp_receiver

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}


async def test_one_answer_is_one_trace_from_admission_to_its_last_token(tmp_path: Path, zoo: Zoo) -> None:
    adapter = zoo.adapters[0]
    prompt = adapter.prompts[0].prompt
    body = {"model": "auto", "prompt": prompt, "max_tokens": 4, "temperature": 0}
    with otlp_receiver() as (receiver, endpoint):
        tracing = TracingSettings(otlp_endpoint=endpoint, sampling_ratio=0.0)
        async with local_system(tmp_path, tracing=tracing) as system:
            async with RamoleClient(system.address) as client:
                stored = await client.upload(adapter.path, adapter.samples, adapter=adapter.name)
            async with httpx.AsyncClient(base_url=f"http://{system.http_address}", timeout=60) as http:
                answer = (await http.post("/v1/completions", json=body, headers=CONTEXT)).json()
        spans = receiver.spans  # a stop sends what is left
    assert {span.trace_id for span in spans} == {TRACE_ID}
    server = {span.service for span in spans if span.name.startswith("ramole.v1") and parent_of(span, spans)}
    assert server == {f"ramole.{name}" for name in ("gateway", "embedding", "retrieval", "executor", "adapters")}
    [root] = [span for span in spans if parent_of(span, spans) is None]
    assert root.name == "POST /v1/completions"
    [execute] = [s for s in spans if (s.service, s.name) == ("ramole.executor", "ramole.v1.Executor/Execute")]
    [fetch] = [s for s in spans if (s.service, s.name) == ("ramole.adapters", "ramole.v1.Adapters/Fetch")]
    assert parent_of(fetch, spans) is not None
    inside = {span.name: span for span in spans if span.parent == execute.span_id}
    loads = [span for span in spans if span.name == "load adapter"]
    assert {span.parent for span in loads} == {execute.span_id}
    assert [span.attributes["ramole.tier"] for span in sorted(loads, key=lambda span: span.start_ns)] == [
        "store",
        "device",
    ]
    assert {span.attributes["ramole.digest"] for span in loads} == {stored.record.ref.digest}
    queue, prefill, decode = (inside[name] for name in ("queue", "prefill", "decode"))
    assert queue.end_ns == prefill.start_ns
    assert prefill.end_ns == decode.start_ns
    assert all(execute.start_ns <= span.start_ns <= span.end_ns <= queue.end_ns for span in loads)
    assert prefill.attributes["ramole.prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert decode.attributes["ramole.completion_tokens"] == answer["usage"]["completion_tokens"]
    above = [span for span in spans if span.service == "ramole.gateway"]
    order = ["admission", "embed", "search", "ramole.v1.Executor/Execute"]
    assert [span.name for span in sorted(above, key=lambda span: span.start_ns) if span.name in order] == order
    assert all(prompt not in str(span.attributes) for span in spans)


def parent_of(span: Span, spans: Sequence[Span]) -> Span | None:
    """The span that another one is inside of, if it came as well."""
    return next((each for each in spans if each.span_id == span.parent), None)
