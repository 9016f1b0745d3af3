"""What tracing costs: the shortest answers of null engines that trace nothing, a share of all calls, or every call."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ramole.core.errors import Internal
from ramole.lab.bench.serve.clients import stream_grpc
from ramole.lab.bench.serve.options import TracingCase
from ramole.lab.bench.serve.process import ServerProcess
from ramole.lab.bench.timing import Times, ratio
from ramole.v1 import common_pb2, gateway_pb2

OFF = "off"


async def run_tracing_case(case: TracingCase, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures one case. Requests use no adapters: the less a request costs, the more a span weighs beside it."""
    request = gateway_pb2.GenerateRequest(
        prompt="say it", composition=common_pb2.Composition(k=0), sampling=common_pb2.Sampling(max_tokens=1)
    )
    with ExitStack() as stack:

        def start(kind: str, settings: dict[str, Any] | None = None) -> ServerProcess:
            progress(f"starting {kind}")
            server = ServerProcess(kind, folder, settings)
            stack.callback(server.stop)
            return server

        endpoint = f"http://{start('collector').address}"
        servers = {OFF: start("null", _settings(folder, 0, None))}
        for number, share in enumerate(case.shares, 1):
            tracing = {"otlp_endpoint": endpoint, "sampling_ratio": share}
            servers[f"{share:.0%}"] = start("null", _settings(folder, number, tracing))
        progress("answers with and without tracing")
        times: Times = {name: [] for name in servers}
        cpu_s = dict.fromkeys(servers, 0.0)
        names = list(servers)
        for i in range(case.rounds + 1):  # one more comes first, uncounted
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                before_s = servers[name].cpu_s
                start_s = time.perf_counter()
                done = await stream_grpc(servers[name].address, request, case.num_requests)
                seconds = time.perf_counter() - start_s
                if done.num_tokens != case.num_requests:
                    raise Internal(f"{name} sent {done.num_tokens} tokens")
                if i:
                    times[name].append(seconds)
                    cpu_s[name] += servers[name].cpu_s - before_s
    return {
        "name": "tracing",
        "kind": "tracing",
        "case": asdict(case),
        "cpu_ms_per_request": {
            name: 1000 * seconds / (case.rounds * case.num_requests) for name, seconds in cpu_s.items()
        },
        "cpu_vs_off": {name: seconds / cpu_s[OFF] for name, seconds in cpu_s.items()},
        "time_vs_off": {name: ratio(times, name, OFF) for name in names},
        "times": times,
    }


def _settings(folder: Path, number: int, tracing: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "data_dir": str(folder / f"traced-{number}"),
        "gateway": {"server": {"port": 0}, "http": {"port": None}},
        "executor": {"router": ""},
        "tracing": tracing or {},
    }
