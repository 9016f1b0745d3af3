"""One load for many waiters; never more bytes than allowed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ramole.adapters.cache import HostCache
from ramole.adapters.objects import Content
from ramole.core.errors import Corrupt


class Disk:
    """Ten bytes for every digest. Loads of `slow` wait for `gate`."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gate = threading.Event()
        self.started = threading.Event()

    def load(self, digest: str) -> Content:
        self.loads.append(digest)
        if digest == "bad":
            raise Corrupt("bad")
        if digest == "slow":
            self.started.set()
            self.gate.wait(10)
        return Content(b"12", digest.encode().ljust(8))


async def test_least_recently_used_goes_first() -> None:
    disk = Disk()
    cache = HostCache(disk.load, max_bytes=25)
    for digest in ("a", "b", "a", "c", "a"):
        assert (await cache.get(digest)).tensors.strip() == digest.encode()
    assert disk.loads == ["a", "b", "c"]
    assert ("a" in cache, "b" in cache, "c" in cache, cache.num_bytes) == (True, False, True, 20)


async def test_too_large_and_no_cache_at_all() -> None:
    disk = Disk()
    cache = HostCache(disk.load, max_bytes=9)
    await cache.get("a")
    await cache.get("a")
    assert (disk.loads, cache.num_bytes) == (["a", "a"], 0)


async def test_many_waiters_one_load() -> None:
    disk = Disk()
    cache = HostCache(disk.load, max_bytes=100)
    waiters = [asyncio.create_task(cache.get("slow")) for _ in range(20)]
    await asyncio.to_thread(disk.started.wait, 10)
    waiters[0].cancel()
    disk.gate.set()
    contents = await asyncio.gather(*waiters[1:])
    assert len({id(content) for content in contents}) == 1
    assert disk.loads == ["slow"]
    assert waiters[0].cancelled()


async def test_errors_reach_all_and_are_not_kept() -> None:
    disk = Disk()
    cache = HostCache(disk.load, max_bytes=100)
    results = await asyncio.gather(*(cache.get("bad") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, Corrupt) for result in results)
    assert disk.loads == ["bad"]
    with pytest.raises(Corrupt):
        await cache.get("bad")
    assert disk.loads == ["bad", "bad"]


async def test_dropped_while_loading_is_not_kept() -> None:
    disk = Disk()
    cache = HostCache(disk.load, max_bytes=100)
    waiter = asyncio.create_task(cache.get("slow"))
    await asyncio.to_thread(disk.started.wait, 10)
    cache.drop("slow")
    disk.gate.set()
    assert (await waiter).num_bytes == 10
    assert "slow" not in cache
    await cache.get("a")
    cache.drop("a")
    cache.drop("a")
    assert cache.num_bytes == 0
    await cache.close()
