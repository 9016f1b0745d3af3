"""Streams of one call, told together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import Internal, RamoleError, Unavailable
from ramole.gateway.together import each_alone, together


class Stream:
    """Yields its items, then perhaps fails; knows how far it came and whether it was closed."""

    def __init__(self, items: list[int], error: Exception | None = None) -> None:
        self.items, self.error, self.told, self.is_closed = items, error, 0, False

    async def run(self) -> AsyncGenerator[int]:
        try:
            for item in self.items:
                await asyncio.sleep(0)
                self.told += 1
                yield item
            if self.error is not None:
                raise self.error
        finally:
            self.is_closed = True


@given(st.lists(st.lists(st.integers(), max_size=100), max_size=6))
def test_everything_comes_in_the_order_of_its_stream(rows: list[list[int]]) -> None:
    async def read() -> list[list[int]]:
        got: list[list[int]] = [[] for _ in rows]
        async for number, item in together([Stream(row).run() for row in rows]):
            got[number].append(item)
        return got

    assert asyncio.run(read()) == rows


async def test_the_first_failure_ends_all() -> None:
    endless, failing = Stream(list(range(10_000))), Stream([1, 2], Unavailable("down"))
    got = []

    async def read() -> None:
        async for item in together([endless.run(), failing.run()]):
            got.append(item)

    with pytest.raises(Unavailable, match="down"):
        await read()
    assert [item for number, item in got if number == 1] == [1, 2]
    assert endless.is_closed
    assert endless.told < 10_000


async def test_closing_closes_all_and_nobody_reads_far_ahead() -> None:
    streams = [Stream(list(range(10_000))) for _ in range(3)]
    async with aclosing(together([stream.run() for stream in streams])) as items:
        await anext(items)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert sum(stream.told for stream in streams) <= 64 + 1 + 3
    assert all(stream.is_closed for stream in streams)


async def test_each_alone_ends_one_and_lets_the_others_go_on() -> None:
    streams = [Stream([1, 2], Unavailable("down")), Stream(list(range(200))), Stream([], ValueError("secret"))]
    got: list[list[int | RamoleError]] = [[], [], []]
    async for number, item in each_alone([stream.run() for stream in streams]):
        got[number].append(item)
    first, whole, last = got
    assert first[:2] == [1, 2]
    assert isinstance(first[2], Unavailable)
    assert whole == list(range(200))
    assert isinstance(last[0], Internal)
    assert "secret" not in str(last[0])
    assert all(stream.is_closed for stream in streams)
