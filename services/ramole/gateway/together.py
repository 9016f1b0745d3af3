"""Several streams as one: the prompts of one call run together, and their events are told as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

_AHEAD = 64


async def together(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """Each item with the number of its stream; the order within a stream is kept.

    The streams are read at most 64 items ahead of whoever reads here. The first failure ends all of them and is raised.
    Closing this generator closes them.
    """
    if len(streams) == 1:  # a task and a queue would be half of what a token costs here
        async with aclosing(streams[0]) as only:
            async for each in only:
                yield 0, each
        return
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(_AHEAD)

    async def read(number: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    await queue.put((number, item))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(read(number, stream)) for number, stream in enumerate(streams)]
    try:
        num_open = len(tasks)
        while num_open:
            item = await queue.get()
            if item is None:
                num_open -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
