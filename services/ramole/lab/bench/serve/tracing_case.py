"""What tracing costs: the shortest answers of null engines that trace no call, a share of them, or all."""

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

OFF, SHARE, ALL = "off", "share", "all"


async def run_tracing_case(case: TracingCase, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures one case. Requests use no adapters: the less a request costs, the more a span weighs beside it."""
    request = gateway_pb2.GenerateRequest(
        prompt="say it", composition=common_pb2.Composition(k=0), sampling=common_pb2.Sampling(max_tokens=1)
    )
    with ExitStack() as stack:
        progress("starting systems with and without tracing")
        collector = ServerProcess("collector", folder)
        stack.callback(collector.stop)
        server = ServerProcess(
            "traced",
            folder,
            {
                "gateway": {"server": {"port": 0}, "http": {"port": None}},
                "executor": {"router": ""},
                "tracing": {"otlp_endpoint": f"http://{collector.address}", "sampling_ratio": case.share},
            },
        )
        stack.callback(server.stop)
        addresses = dict(zip((OFF, SHARE, ALL), server.address.split(","), strict=True))
        progress("answers with and without tracing")
        times: Times = {name: [] for name in addresses}
        cpu_s = dict.fromkeys(addresses, 0.0)
        names = list(addresses)
        for i in range(case.rounds + 1):  # one more comes first, uncounted
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                before_s, start_s = server.cpu_s, time.perf_counter()
                done = await stream_grpc(addresses[name], request, case.num_requests)
                seconds = time.perf_counter() - start_s
                if done.num_tokens != case.num_requests:
                    raise Internal(f"{name} sent {done.num_tokens} tokens")
                if i:
                    times[name].append(seconds)
                    cpu_s[name] += server.cpu_s - before_s
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
