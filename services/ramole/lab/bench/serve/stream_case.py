"""How many tokens a second pass the door, beside bare servers that send the same to the same client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ramole.core.errors import Internal
from ramole.lab.bench.serve.clients import Streamed, completion_body, stream_grpc, stream_http
from ramole.lab.bench.serve.null_executor import STEP_S
from ramole.lab.bench.serve.options import StreamCase
from ramole.lab.bench.serve.process import ServerProcess
from ramole.lab.bench.timing import Times, ratio
from ramole.v1 import common_pb2, gateway_pb2
from ramole.zoo.catalog import load_zoo

GRPC, HTTP, GRPC_PEER, HTTP_PEER = "grpc", "http", "bare grpc.aio", "bare FastAPI"

_PROMPT = "say it"


async def run_stream_case(case: StreamCase, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures one case."""
    model = load_zoo().base_id
    request = gateway_pb2.GenerateRequest(
        prompt=_PROMPT,
        composition=common_pb2.Composition(k=0),
        sampling=common_pb2.Sampling(max_tokens=case.new_tokens),
    )
    body = completion_body(model, _PROMPT, case.new_tokens)
    with ExitStack() as stack:

        def start(kind: str, settings: dict[str, Any] | None = None) -> ServerProcess:
            progress(f"starting {kind}")
            server = ServerProcess(kind, folder, settings)
            stack.callback(server.stop)
            return server

        null = start("null", _settings(case))
        bare_grpc, bare_http = start("grpc"), start("fastapi")
        contestants: dict[str, Callable[[], Awaitable[Streamed]]] = {
            GRPC: lambda: stream_grpc(null.address, request, case.num_streams),
            GRPC_PEER: lambda: stream_grpc(bare_grpc.address, request, case.num_streams),
            HTTP: lambda: stream_http(null.http_address, body, case.num_streams, case.new_tokens),
            HTTP_PEER: lambda: stream_http(bare_http.http_address, body, case.num_streams, case.new_tokens),
        }
        progress("streams of a null engine")
        rounds = await _interleaved(contestants, case)
    times: Times = {name: [each.seconds for each in streamed] for name, streamed in rounds.items()}
    num_tokens = case.num_streams * case.new_tokens
    return {
        "name": "streams",
        "kind": "streams",
        "case": asdict(case),
        "offered_tokens_per_s": case.num_streams / STEP_S,
        "contestants": {
            name: {
                "tokens_per_s": num_tokens / median(times[name]),
                "tokens_per_message": num_tokens / median(each.num_messages for each in streamed),
            }
            for name, streamed in rounds.items()
        },
        "grpc_vs_bare": ratio(times, GRPC_PEER, GRPC),
        "http_vs_bare": ratio(times, HTTP_PEER, HTTP),
        "times": times,
    }


async def _interleaved(
    contestants: dict[str, Callable[[], Awaitable[Streamed]]], case: StreamCase
) -> dict[str, list[Streamed]]:
    """One more round comes first, uncounted. Raises Internal for lost tokens."""
    rounds: dict[str, list[Streamed]] = {name: [] for name in contestants}
    names = list(contestants)
    for i in range(case.rounds + 1):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            streamed = await contestants[name]()
            if streamed.num_tokens != case.num_streams * case.new_tokens:
                raise Internal(f"{name} sent {streamed.num_tokens} tokens")
            if i:
                rounds[name].append(streamed)
    return rounds


def _settings(case: StreamCase) -> dict[str, Any]:
    return {
        "gateway": {"server": {"port": 0}, "http": {"port": 0}},
        "executor": {"max_rows": case.num_streams, "max_len": case.new_tokens + 32, "router": ""},
    }
