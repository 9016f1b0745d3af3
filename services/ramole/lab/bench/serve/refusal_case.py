"""How fast somebody hears that he has used up what he may."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from statistics import median
from typing import Any

from ramole.client import RamoleClient
from ramole.core.errors import Internal, LimitExceeded
from ramole.core.sampling import Sampling
from ramole.lab.bench.serve.clients import completion_body, exchange_http
from ramole.lab.bench.serve.options import RefusalCase
from ramole.lab.bench.serve.world import LIMITED, OWNER, World

_TRY = Sampling(max_tokens=1)


async def run_refusal_case(case: RefusalCase, world: World) -> dict[str, Any]:
    """Measures one case, over both ports."""
    over_grpc, over_http = await _run(case, world)
    return {
        "name": "refusal",
        "kind": "refusal",
        "case": asdict(case),
        "rejected_ms_p50_grpc": 1000 * median(over_grpc),
        "rejected_ms_p50_http": 1000 * median(over_http),
    }


async def _run(case: RefusalCase, world: World) -> tuple[list[float], list[float]]:
    adapter = world.adapters[0]
    name, prompt = f"{OWNER}/{adapter.name}", adapter.prompts[0].prompt
    async with world.client(LIMITED) as client:
        with suppress(LimitExceeded):  # one a minute is granted
            await client.complete(prompt, adapters=[name], sampling=_TRY)
        over_grpc = [await _refused(client, prompt, name) for _ in range(case.num_requests)]
    body, headers = completion_body(name, prompt, 1), [("authorization", f"Bearer {world.keys[LIMITED]}")]
    over_http = []
    async for seconds, answer in exchange_http(world.server.http_address, body, headers, case.num_requests):
        if not answer.startswith(b"HTTP/1.1 429"):
            raise Internal(f"not refused: {answer[:200]!r}")
        over_http.append(seconds)
    return over_grpc, over_http


async def _refused(client: RamoleClient, prompt: str, name: str) -> float:
    start_s = time.perf_counter()
    try:
        await client.complete(prompt, adapters=[name], sampling=_TRY)
    except LimitExceeded:
        return time.perf_counter() - start_s
    raise Internal("a tenant over its limit was served")
