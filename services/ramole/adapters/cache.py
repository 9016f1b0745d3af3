"""Adapter files in host memory: least recently used first out, by bytes; one load per digest, however many wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from ramole.adapters.objects import Content


class HostCache:
    """Contents by digest. All methods belong to one event loop; `load` runs in threads.

    Args:
        load: reads and verifies one content; its errors reach all who wait and are not remembered.
        max_bytes: of all contents held. What does not fit is handed out and not kept; 0 keeps nothing.
    """

    def __init__(self, load: Callable[[str], Content], max_bytes: int) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._contents: OrderedDict[str, Content] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Content]] = {}
        self.num_bytes = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._contents

    async def get(self, digest: str) -> Content:
        """From memory, else through `load`. A caller that is cancelled leaves the load to the others."""
        content = self._contents.get(digest)
        if content is not None:
            self._contents.move_to_end(digest)
            return content
        task = self._loading.get(digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._load, digest))
            self._loading[digest] = task
            task.add_done_callback(lambda done: self._loaded(digest, done))
        return await asyncio.shield(task)

    def drop(self, digest: str) -> None:
        """Frees a content. One that is being loaded still reaches those who wait, but is not kept."""
        self._loading.pop(digest, None)
        content = self._contents.pop(digest, None)
        if content is not None:
            self.num_bytes -= content.num_bytes

    async def close(self) -> None:
        """Waits for loads that are under way and frees everything."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        self._contents.clear()
        self.num_bytes = 0

    def _loaded(self, digest: str, task: asyncio.Task[Content]) -> None:
        is_wanted = self._loading.get(digest) is task
        if is_wanted:
            del self._loading[digest]
        # Reading the exception also marks it as seen when every waiter has been cancelled.
        if task.cancelled() or task.exception() is not None or not is_wanted:
            return
        self._keep(digest, task.result())

    def _keep(self, digest: str, content: Content) -> None:
        if content.num_bytes > self._max_bytes:
            return
        self._contents[digest] = content
        self.num_bytes += content.num_bytes
        while self.num_bytes > self._max_bytes:
            _, evicted = self._contents.popitem(last=False)
            self.num_bytes -= evicted.num_bytes
