"""What clients do to a running server: requests by popularity, uploads, and an upload that is asked for at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ramole.client import Chunk, RamoleClient
from ramole.client.values import Routing
from ramole.core.errors import Internal
from ramole.core.sampling import Sampling
from ramole.lab.bench.repository.fleet import adapter_name, sample_of
from ramole.lab.bench.repository.options import Ask
from ramole.zoo.catalog import ZooAdapter

T = TypeVar("T")

_TIMEOUT_S = 120.0


def zipf_numbers(count: int, num_adapters: int, seed: int) -> list[int]:
    """`count` adapters out of `num_adapters`: number i with a popularity of 1 / (i + 1)."""
    popularity = 1 / np.arange(1, num_adapters + 1)
    drawn = np.random.default_rng(seed).choice(num_adapters, count, p=popularity / popularity.sum())
    return [int(number) for number in drawn]


def serve_requests(
    address: str, numbers: Sequence[int], ask: Ask, *, concurrency: int, new_tokens: int
) -> tuple[float, int]:
    """Asks for each adapter.

    Returns:
        Seconds for all, and the number of tokens of all answers.
    """
    sampling = Sampling(max_tokens=new_tokens)
    num_tokens = 0

    async def main() -> float:
        async with _connected(address) as client:

            async def request(number: int) -> None:
                nonlocal num_tokens
                if ask is Ask.ROUTE_ONLY:
                    await client.route(sample_of(number))
                    return
                named = (adapter_name(number),) if ask is Ask.BY_NAME else ()
                answer = await client.complete(sample_of(number), adapters=named, sampling=sampling)
                num_tokens += answer.usage.completion_tokens

            return await _in_parallel(request, numbers, concurrency)

    return asyncio.run(main()), num_tokens


def upload_all(address: str, folders: Sequence[Path], samples: Sequence[str], *, concurrency: int) -> float:
    """Seconds until all are acknowledged."""

    async def main() -> float:
        async with _connected(address) as client:

            async def upload(folder: Path) -> None:
                # No two adapters have the same samples, as in life.
                await client.upload(folder, [f"{folder.name} {sample}" for sample in samples])

            return await _in_parallel(upload, folders, concurrency)

    return asyncio.run(main())


@dataclass(frozen=True, slots=True)
class UploadedAndAnswered:
    """Seconds from the begin of one upload: until it was acknowledged, until the first text, until the last."""

    adapter: str
    uploaded_s: float
    first_text_s: float
    answered_s: float


def upload_and_ask(address: str, adapters: Sequence[ZooAdapter]) -> list[UploadedAndAnswered]:
    """Uploads each adapter, then asks one of its test prompts at once, without naming it.

    Raises:
        Internal: the first answer after an upload does not use the adapter.
    """

    async def main() -> list[UploadedAndAnswered]:
        async with _connected(address) as client:
            return [await _upload_and_ask(client, adapter) for adapter in adapters]

    return asyncio.run(main())


async def _upload_and_ask(client: RamoleClient, adapter: ZooAdapter) -> UploadedAndAnswered:
    start_s = time.perf_counter()
    uploaded = await client.upload(adapter.path, adapter.samples, adapter=adapter.name)
    uploaded_s = time.perf_counter() - start_s
    first_text_s = None
    async for event in client.generate(adapter.prompts[0].prompt):
        if isinstance(event, Routing) and uploaded.record.ref not in [used.ref for used in event.adapters]:
            raise Internal(f"the first answer after its upload does not use {adapter.name}")
        if isinstance(event, Chunk) and first_text_s is None:
            first_text_s = time.perf_counter() - start_s
    answered_s = time.perf_counter() - start_s
    return UploadedAndAnswered(
        adapter.name, uploaded_s, answered_s if first_text_s is None else first_text_s, answered_s
    )


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[RamoleClient]:
    """A client whose connection stands already."""
    async with RamoleClient(address, timeout_s=_TIMEOUT_S, retries=0) as client:
        await client.describe()
        yield client


async def _in_parallel(call: Callable[[T], Awaitable[None]], items: Iterable[T], concurrency: int) -> float:
    """Seconds for all calls, `concurrency` at a time."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await call(item)

    start_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.perf_counter() - start_s
