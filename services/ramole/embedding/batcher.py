"""Many small requests, one encoder: texts that wait together are encoded together.

A batch takes one text from each waiting request in turn until it is full. A prompt therefore rides in the next batch
even while an upload with many samples is half done; the upload gets the room that is left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import Unavailable

Vectors = NDArray[np.float32]
Text = TypeVar("Text")


@dataclass(eq=False, slots=True)
class _Request(Generic[Text]):
    texts: list[Text]
    arrived_s: float
    done: asyncio.Future[Vectors]
    num_taken: int = 0
    rows: list[Vectors] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        return len(self.texts) - self.num_taken


class MicroBatcher(Generic[Text]):
    """Runs `encode` in one thread of its own, batch after batch. Lives on one event loop.

    Args:
        encode: n texts -> ``[n, dim]``; never called twice at once.
        max_batch: texts in one call at most.
        window_s: how long the first text of a batch waits for company.
    """

    def __init__(self, encode: Callable[[list[Text]], Vectors], *, max_batch: int, window_s: float) -> None:
        self._encode = encode
        self._max_batch = max_batch
        self._window_s = window_s
        self._open: set[_Request[Text]] = set()
        self._waiting: deque[_Request[Text]] = deque()
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take requests. Call on the event loop that will submit."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Fails what waits with Unavailable; the batch that runs is waited for and thrown away."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        for request in self._open:
            if not request.done.done():
                request.done.set_exception(Unavailable("the encoder is stopping", remedy="retry elsewhere"))
        await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, texts: list[Text]) -> Vectors:
        """Embeds n >= 1 texts: ``[n, dim]``, in their order. When cancelled, texts not yet encoded never will be.

        Raises:
            Unavailable: not started, or closed meanwhile.
            Exception: whatever `encode` raised for a batch with one of these texts.
        """
        if self._worker is None:
            raise Unavailable("the encoder is not running", remedy="retry in a moment")
        loop = asyncio.get_running_loop()
        request = _Request(texts, loop.time(), loop.create_future())
        self._open.add(request)
        self._waiting.append(request)
        self._arrival.set()
        try:
            return await request.done
        finally:
            self._open.discard(request)

    async def _work(self) -> None:
        while True:
            await self._company()
            batch = self._take()
            if not batch:
                continue
            texts = [request.texts[i] for request, i in batch]
            try:
                vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, texts)
                if len(vectors) != len(texts):
                    raise ValueError(f"{len(vectors)} vectors for {len(texts)} texts")
            except Exception as error:
                for request in {request for request, _ in batch if not request.done.done()}:
                    request.done.set_exception(error)
            else:
                for (request, _), vector in zip(batch, vectors, strict=True):
                    _deliver(request, vector)

    async def _company(self) -> None:
        """Returns when a batch is full, or something waits and the oldest of it has waited long enough."""
        loop = asyncio.get_running_loop()
        while True:
            # Requests that were cancelled or have failed cost nothing more.
            self._waiting = deque(request for request in self._waiting if not request.done.done())
            left_s = None
            if self._waiting:
                left_s = min(request.arrived_s for request in self._waiting) + self._window_s - loop.time()
                if left_s <= 0 or sum(request.num_left for request in self._waiting) >= self._max_batch:
                    return
            self._arrival.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[tuple[_Request[Text], int]]:
        """The next batch: (request, index of its text), one text of each request in turn."""
        batch: list[tuple[_Request[Text], int]] = []
        while self._waiting and len(batch) < self._max_batch:
            request = self._waiting.popleft()
            if request.done.done():
                continue
            batch.append((request, request.num_taken))
            request.num_taken += 1
            if request.num_left:
                self._waiting.append(request)
        return batch


def _deliver(request: _Request[Text], vector: Vectors) -> None:
    request.rows.append(vector)
    if len(request.rows) == len(request.texts) and not request.done.done():
        request.done.set_result(np.stack(request.rows))
