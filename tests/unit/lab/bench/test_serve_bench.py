"""The benchmark of the front door, on sizes where figures mean nothing but every one must be there."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import cast

import pytest

from ramole.core.errors import Internal
from ramole.executor.engine import Engine
from ramole.executor.runner import ModelRunner
from ramole.executor.sequence import Sequence
from ramole.lab.bench.serve.null_executor import NullRunner
from ramole.lab.bench.serve.options import (
    EncoderCase,
    FairnessCase,
    LoadCase,
    OverheadCase,
    RefusalCase,
    ServeOptions,
    StreamCase,
    TracingCase,
    quick_serve_options,
)
from ramole.lab.bench.serve.run import run_serve

KEYS = {
    "overhead_ms_p50_named",
    "overhead_ms_p50_retrieved",
    "stream_tokens_per_s_null_engine",
    "stream_tokens_per_s_null_engine_http",
    "fairness_ratio",
    "p99_ms_at_80pct_load",
    "rejected_over_limit_ms_p50",
    "fairness_ratio_without_tenants",
    "encoder_onnx_vs_torch",
    "stream_grpc_vs_bare",
    "stream_http_vs_bare",
    "tracing_cpu_vs_off",
    "tracing_all_cpu_vs_off",
}
TINY = ServeOptions(
    streams=StreamCase(num_streams=4, new_tokens=12, rounds=1),
    encoder=EncoderCase(sizes=(1, 2), num_prompts=1, rounds=1),
    overhead=OverheadCase(num_adapters=2, rounds=2),
    load=LoadCase(concurrency=2, num_closed=4, num_open=4, new_tokens=2),
    fairness=FairnessCase(clients=1, times=3, num_requests=2, new_tokens=4, rounds=1),
    refusal=RefusalCase(num_requests=3),
    tracing=TracingCase(num_requests=2, rounds=1),
)


@pytest.mark.slow  # starts six servers for figures that mean nothing
def test_the_whole_bench_gives_every_figure() -> None:
    parts: list[str] = []
    result = json.loads(json.dumps(run_serve(TINY, progress=parts.append)))
    assert list(result)[-1] == "summary"
    assert set(result["summary"]) == KEYS
    assert all(isinstance(value, float) for value in result["summary"].values())
    assert all(value > 0 for key, value in result["summary"].items() if not key.startswith("overhead"))
    encoder, streams, tracing, overhead, refusal, fairness, load = result["cases"]
    assert set(streams["contestants"]) == {"grpc", "http", "bare grpc.aio", "bare FastAPI"}
    assert all(len(times) == 1 for times in streams["times"].values())
    assert [len(overhead["times"][name]) for name in ("engine", "named", "routed")] == [2, 2, 2]
    assert refusal["rejected_ms_p50_http"] > 0
    assert all(len(ratios) == 1 for ratios in fairness["ratios"].values())
    assert encoder["same_top_k"] == 1.0
    assert encoder["largest_difference"] < 1e-5
    assert len(load["latencies_s"]) == 4
    assert set(tracing["cpu_vs_off"]) == set(tracing["times"]) == {"off", "share", "all"}
    assert result["sizes"]["streams"]["num_streams"] == 4
    assert parts


def test_the_null_engine_answers_with_as_many_tokens_as_are_asked_for() -> None:
    def load(digest: str) -> Future[object]:
        raise Internal("there is nothing to load")

    runner = cast(ModelRunner, NullRunner([5, 6, 7], max_len=64, step_s=0.0, num_rows=3))
    engine = Engine(runner, load=load, eos_token_ids=(), num_slots=2, max_rows=3, token_budget=8)  # type: ignore[arg-type]
    sequences = [Sequence(str(i), [1] * (9 + i), 4 + i) for i in range(5)]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert [sequence.tokens for sequence in sequences] == [([5, 6, 7] * 3)[: 4 + i] for i in range(5)]


def test_quick_is_the_same_with_fewer_rounds() -> None:
    quick, full = quick_serve_options(), ServeOptions()
    assert quick.streams.num_streams == full.streams.num_streams
    assert quick.streams.new_tokens == full.streams.new_tokens
    assert (quick.fairness.clients, quick.fairness.times) == (full.fairness.clients, full.fairness.times)
