"""The engine's own thread, and the asyncio face in front of it.

Commands go in through one queue and run between steps; events come out with one wake-up of the event loop per step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar
from uuid import uuid4

from ramole.core.composition import Composition, Expert
from ramole.core.errors import RamoleError, Unavailable
from ramole.core.sampling import Sampling
from ramole.executor.engine import Engine, Update
from ramole.executor.sampler import make_sampler
from ramole.executor.sequence import FinishReason, Sequence
from ramole.executor.text import TextCodec, TextStream

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer. `sequence` no longer changes."""

    sequence: Sequence
    finish_reason: FinishReason
    ended_s: float


Event = Chunk | Done | RamoleError


@dataclass(slots=True)
class _Client:
    # Unbounded, but never longer than max_tokens of its request: a slow reader cannot hold more than that.
    events: asyncio.Queue[Event]
    text: TextStream


class EngineWorker:
    """Owns the engine and its thread from `start` to `stop`."""

    def __init__(self, codec: TextCodec, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._codec = codec
        self._clock = clock
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._clients: dict[str, _Client] = {}
        self._outbox: list[tuple[asyncio.Queue[Event], Event]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._is_stopping = False
        self._engine: Engine
        self._loop: asyncio.AbstractEventLoop

    def start(self, engine: Engine) -> None:
        """Starts the thread. Call on the event loop that will read the events."""
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its current step; whatever still runs gets Unavailable."""
        self._call(self._halt)
        await asyncio.to_thread(self._thread.join)

    @property
    def is_alive(self) -> bool:
        """False once the engine has failed: the replica should be replaced."""
        return self._thread.is_alive()

    async def generate(
        self, prompt: str, experts: tuple[Expert, ...], composition: Composition, sampling: Sampling
    ) -> AsyncGenerator[Chunk | Done, None]:
        """Runs one request. Closing the iterator frees everything it holds within one step.

        Raises:
            RamoleError: the request cannot run, one of its adapters is gone, or the engine failed.
        """
        if not self.is_alive:
            raise Unavailable("the engine is not running", remedy="retry")
        arrived_s = self._clock()
        ids = await asyncio.to_thread(self._codec.encode, prompt)
        sequence = Sequence(
            id=uuid4().hex,
            prompt=ids,
            max_tokens=sampling.max_tokens,
            experts=experts,
            composition=composition,
            arrived_s=arrived_s,
            sampler=make_sampler(sampling, self._engine.device),
            wants_logprobs=sampling.logprobs,
        )
        client = _Client(asyncio.Queue(), self._codec.stream(sampling))
        self._call(lambda: self._add(sequence, client))
        try:
            while True:
                event = await client.events.get()
                if isinstance(event, RamoleError):
                    raise event
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self._call(lambda: self._drop(sequence.id))

    async def evict(self, digests: Collection[str], *, abort: bool) -> int:
        """Drops adapters from the device; see Engine.evict."""
        return await self.ask(lambda engine: engine.evict(digests, abort=abort))

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Runs `question` on the engine's thread between two steps and returns its answer."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = question(self._engine)
            except Exception as error:
                self._loop.call_soon_threadsafe(answer.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(answer.set_result, result)

        if not self.is_alive:
            raise Unavailable("the engine is not running", remedy="retry")
        self._call(run)
        return await answer

    def wake(self) -> None:
        """Makes a sleeping engine look again, for example because a load is done. Callable from any thread."""
        self._call(_nothing)

    def _call(self, command: Callable[[], None]) -> None:
        self._inbox.put(command)

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                if not self._engine.has_work or self._engine.is_stalled:
                    self._inbox.get()()
                while not self._inbox.empty():
                    self._inbox.get()()
                for update in self._engine.step():
                    self._publish(update)
                self._flush()
        except Exception:
            _log.exception("the engine failed")
        finally:
            for client in self._clients.values():
                self._outbox.append((client.events, Unavailable("the engine stopped", remedy="retry")))
            self._flush()

    def _halt(self) -> None:
        self._is_stopping = True

    def _add(self, sequence: Sequence, client: _Client) -> None:
        try:
            self._engine.add(sequence)
        except RamoleError as error:
            self._outbox.append((client.events, error))
            return
        self._clients[sequence.id] = client

    def _drop(self, sequence_id: str) -> None:
        self._engine.cancel(sequence_id)
        self._clients.pop(sequence_id, None)

    def _publish(self, update: Update) -> None:
        client = self._clients.get(update.sequence.id)
        if client is None:
            return
        if update.error is not None:
            self._outbox.append((client.events, update.error))
        elif update.token is not None:
            text = client.text.push(update.token)
            is_last = update.is_last or client.text.is_stopped
            if is_last:
                text += client.text.flush()
            logprobs = () if update.logprob is None else (update.logprob,)
            self._outbox.append((client.events, Chunk(text, (update.token,), logprobs)))
            if is_last:
                reason = FinishReason.STOP if client.text.is_stopped else update.sequence.finish_reason
                done = Done(update.sequence, reason or FinishReason.LENGTH, self._clock())
                self._outbox.append((client.events, done))
                self._drop(update.sequence.id)

    def _flush(self) -> None:
        if not self._outbox:
            return
        batch, self._outbox = self._outbox, []

        def deliver() -> None:
            for queue, event in batch:
                queue.put_nowait(event)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed: nobody is left to read
            _log.debug("%d events after the event loop closed", len(batch))


def _nothing() -> None:
    pass
