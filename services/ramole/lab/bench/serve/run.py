"""`ramole bench serve`: runs all cases and sums them up."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ramole.lab.bench.serve.encoder_case import run_encoder_case
from ramole.lab.bench.serve.fairness_case import run_fairness_case
from ramole.lab.bench.serve.load_case import run_load_case
from ramole.lab.bench.serve.options import ServeOptions, full_serve_options, quick_serve_options
from ramole.lab.bench.serve.overhead_case import run_overhead_case
from ramole.lab.bench.serve.refusal_case import run_refusal_case
from ramole.lab.bench.serve.stream_case import GRPC, HTTP, run_stream_case
from ramole.lab.bench.serve.tracing_case import ALL, SHARE, run_tracing_case
from ramole.lab.bench.serve.world import start_world
from ramole.lab.machine import cpu_name, torch_threads
from ramole.zoo.catalog import load_zoo

Progress = Callable[[str], None]


def run_serve_bench(*, quick: bool, progress: Progress) -> dict[str, Any]:
    """Measures the way through both ports of local servers, which are processes of their own; this one is the client.

    Args:
        quick: fewer rounds, in under three minutes.
        progress: called with the name of each part before it runs.

    Returns:
        {"setup", "sizes", "cases", "summary"}, ready for JSON.
    """
    return run_serve(quick_serve_options() if quick else full_serve_options(), progress=progress)


def run_serve(options: ServeOptions, *, progress: Progress) -> dict[str, Any]:
    """The same for any sizes."""
    load_before = os.getloadavg()
    with torch_threads(1), TemporaryDirectory(prefix="ramole-bench-") as name:
        progress("the encoder by torch and by ONNX Runtime")
        encoder = run_encoder_case(options.encoder)
        # One event loop for all of it: gRPC's poller goes on calling the loop that it was begun on.
        streams, tracing, overhead, refusal, fairness, load = asyncio.run(_measure(options, Path(name), progress))
    summary = {
        "overhead_ms_p50_named": overhead["overhead_ms_p50_named"],
        "overhead_ms_p50_retrieved": overhead["overhead_ms_p50_routed"],
        "stream_tokens_per_s_null_engine": streams["contestants"][GRPC]["tokens_per_s"],
        "stream_tokens_per_s_null_engine_http": streams["contestants"][HTTP]["tokens_per_s"],
        "fairness_ratio": fairness["fairness_ratio"],
        "p99_ms_at_80pct_load": load["p99_ms"],
        "rejected_over_limit_ms_p50": refusal["rejected_ms_p50_grpc"],
        "fairness_ratio_without_tenants": fairness["ratio_without_tenants"],
        "encoder_onnx_vs_torch": encoder["batches"][1]["onnx_is_faster_by"],
        "stream_grpc_vs_bare": streams["grpc_vs_bare"],
        "stream_http_vs_bare": streams["http_vs_bare"],
        "tracing_cpu_vs_off": tracing["cpu_vs_off"][SHARE],
        "tracing_all_cpu_vs_off": tracing["cpu_vs_off"][ALL],
    }
    return {
        "setup": setup() | {"load_before": load_before, "load_after": os.getloadavg()},
        "sizes": asdict(options),
        "cases": [encoder, streams, tracing, overhead, refusal, fairness, load],
        "summary": summary,
    }


async def _measure(options: ServeOptions, folder: Path, progress: Progress) -> list[dict[str, Any]]:
    cases = [await run_stream_case(options.streams, folder, progress)]
    cases.append(await run_tracing_case(options.tracing, folder, progress))
    progress("starting ramole and uploading")
    world = await start_world(folder, load_zoo().adapters[: options.overhead.num_adapters])
    try:
        progress("overhead of one-token answers")
        cases.append(await run_overhead_case(options.overhead, world))
        progress("refusals")
        cases.append(await run_refusal_case(options.refusal, world))
        progress("two tenants")
        cases.append(await run_fairness_case(options.fairness, world))
        progress("load")
        cases.append(await run_load_case(options.load, world))
    finally:
        world.server.stop()
    return cases


def setup() -> dict[str, Any]:
    """The machine and what is compared."""
    return {
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in ("grpcio", "fastapi", "uvicorn", "torch", "onnxruntime")},
    }
