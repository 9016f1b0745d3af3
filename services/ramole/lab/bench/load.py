"""`ramole bench load`: load on a system of the user's own, over its public port."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ramole.client import RamoleClient
from ramole.core.answer import Chunk
from ramole.core.errors import InvalidInput, RamoleError
from ramole.core.sampling import Sampling

_SHARES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What is asked.

    Attributes:
        adapters: named in turn; empty = every request is routed.
        concurrency: requests at once, each client asking again when it is answered; of no account with a `rate`.
        rate: requests per second, arriving by chance whatever becomes of those before; 0 = closed loop.
        max_tokens: of an answer.
        timeout_s: of a request. Nothing is tried twice.
    """

    prompts: Sequence[str]
    adapters: Sequence[str] = ()
    concurrency: int = 8
    rate: float = 0.0
    seconds: float = 30.0
    max_tokens: int = 64
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InvalidInput("there are no prompts", field="prompts", remedy="give a file with one on each line")


@dataclass(slots=True)
class _Seen:
    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    codes: Counter[str] = field(default_factory=Counter)


async def run_load(client: RamoleClient, options: LoadOptions, *, progress: Callable[[str], None]) -> dict[str, Any]:
    """Asks for so many seconds, then waits for the answers that are still under way.

    Returns:
        {"options", "codes", "summary"}, ready for JSON. Latencies count from the moment that a request was due, so that
        a client that falls behind hides nothing; they are those of good answers.
    """
    client = client.with_options(timeout_s=options.timeout_s, retries=0)
    seen = _Seen()
    started_s = time.perf_counter()
    end_s = started_s + options.seconds
    telling = asyncio.create_task(_tell(progress, seen, started_s, options.seconds))
    try:
        if options.rate:
            await _open_loop(client, options, seen, end_s)
        else:
            await asyncio.gather(
                *(_closed_loop(client, options, seen, end_s, number) for number in range(options.concurrency))
            )
    finally:
        telling.cancel()
    seconds = time.perf_counter() - started_s
    summary: dict[str, Any] = {
        "requests_per_s": seen.codes["OK"] / seconds,
        "tokens_per_s": seen.num_tokens / seconds,
        "failed": seen.codes.total() - seen.codes["OK"],
    }
    for name, values in (("first_token", seen.first_s), ("between_tokens", seen.between_s), ("answer", seen.total_s)):
        for share in _SHARES:
            summary[f"{name}_ms_p{share}"] = 1000 * float(np.percentile(values, share)) if values else None
    given = asdict(options) | {"prompts": len(options.prompts)}
    return {"options": given, "codes": dict(seen.codes), "summary": summary}


async def _closed_loop(client: RamoleClient, options: LoadOptions, seen: _Seen, end_s: float, number: int) -> None:
    chance = random.Random(number)
    while (due_s := time.perf_counter()) < end_s:
        await _ask(client, options, seen, due_s, chance)


async def _open_loop(client: RamoleClient, options: LoadOptions, seen: _Seen, end_s: float) -> None:
    chance = random.Random(0)
    due_s = time.perf_counter()
    async with asyncio.TaskGroup() as asking:
        while (due_s := due_s + chance.expovariate(options.rate)) < end_s:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            asking.create_task(_ask(client, options, seen, due_s, chance))


async def _ask(client: RamoleClient, options: LoadOptions, seen: _Seen, due_s: float, chance: random.Random) -> None:
    adapters = [chance.choice(options.adapters)] if options.adapters else []
    last_s: float | None = None
    try:
        events = client.generate(
            chance.choice(options.prompts), adapters=adapters, sampling=Sampling(max_tokens=options.max_tokens)
        )
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, Chunk):
                    continue
                now_s = time.perf_counter()
                num = len(event.token_ids)
                if last_s is None:
                    seen.first_s.append(now_s - due_s)
                elif num:
                    seen.between_s.extend([(now_s - last_s) / num] * num)
                last_s = now_s
                seen.num_tokens += num
    except RamoleError as error:
        seen.codes[error.reason()] += 1
        return
    seen.codes["OK"] += 1
    seen.total_s.append(time.perf_counter() - due_s)


async def _tell(progress: Callable[[str], None], seen: _Seen, started_s: float, seconds: float) -> None:
    while True:
        elapsed_s = time.perf_counter() - started_s
        progress(f"{min(elapsed_s, seconds):.0f} of {seconds:g} s, {seen.codes.total()} answers")
        await asyncio.sleep(0.5)
