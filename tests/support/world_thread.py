"""A gateway among its neighbours in a thread of its own: for clients that wait, in a thread or a process of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from support.gateway_world import World

T = TypeVar("T")


class WorldThread:
    """A started world; touch it through `run` only, or between calls.

    Args:
        data_dir: of the gateway, which holds its keys; None = it knows none.
        gateway: settings of it to replace.
    """

    def __init__(self, data_dir: Path | None = None, **gateway: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.world = self.run(self._start(data_dir, gateway))

    @property
    def address(self) -> str:
        return self.world.servers["gateway"].address

    @property
    def url(self) -> str:
        """What OpenAI's clients call the base URL, if there is HTTP."""
        return f"http://{self.world.servers['gateway'].http_address}/v1"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine in the world's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def gate(self, method: str, service: str = "executor") -> None:
        """Lets calls of a method of a neighbour wait until `open`."""
        self.run(self._gate(method, service))

    def open(self, method: str, service: str = "executor") -> None:
        """For calls that wait, and all that come."""
        gates: dict[str, asyncio.Event] = getattr(self.world, service).gates
        self._loop.call_soon_threadsafe(gates[method].set)

    def until(self, method: str) -> None:
        """Until the executor has been called so."""
        self.run(self.world.executor.until(method))

    def until_idle(self) -> None:
        """Until the executor runs nothing."""
        self.run(self._until_idle())

    def stop(self) -> None:
        self.run(self.world.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, data_dir: Path | None, gateway: dict[str, Any]) -> World:
        world = World()
        changed: dict[str, Any] = {"gateway": world.settings.gateway.model_copy(update=gateway)}
        changed |= {} if data_dir is None else {"data_dir": data_dir}
        world.settings = world.settings.model_copy(update=changed)
        world.give("a", "b", "c")
        await world.start_neighbours()
        await world.start_gateway()
        return world

    async def _gate(self, method: str, service: str) -> None:
        getattr(self.world, service).gates[method] = asyncio.Event()

    async def _until_idle(self) -> None:
        async with asyncio.timeout(20):
            while self.world.executor.num_running:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)


@contextmanager
def world_thread(data_dir: Path | None = None, **gateway: Any) -> Iterator[WorldThread]:
    """Started, and stopped on the way out."""
    thread = WorldThread(data_dir, **gateway)
    try:
        yield thread
    finally:
        thread.stop()
