"""Several streams as one: the prompts of one call run together, and their events are told as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from ramole.core.call import current_call
from ramole.core.errors import Internal, RamoleError

T = TypeVar("T")

_AHEAD = 64

_log = logging.getLogger(__name__)


async def together(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """Each item with the number of its stream; the order within a stream is kept.

    The streams are read at most 64 items ahead of whoever reads here. The first failure ends all of them and is raised.
    Closing this generator closes them.
    """
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


async def each_alone(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T | RamoleError]]:
    """The same, but a failure is the last item of its stream, and the others go on."""
    async with aclosing(together([_failing_alone(stream) for stream in streams])) as items:
        async for item in items:
            yield item


async def _failing_alone(stream: AsyncGenerator[T]) -> AsyncGenerator[T | RamoleError]:
    try:
        async with aclosing(stream) as items:
            async for item in items:
                yield item
    except RamoleError as error:
        yield error
    except Exception:
        _log.exception("one of several answers failed")
        yield Internal(
            f"internal error, request id {current_call().request_id}",
            remedy="report the request id to the operator",
        )
