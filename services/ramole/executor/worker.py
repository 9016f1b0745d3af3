"""The engine's own thread, and the asyncio face in front of it.

Commands go in through one queue and run between steps; events come out with one wake-up of the event loop per step.
A watchdog on the event loop notices when the thread has ended or does not come back from a step. Then everybody who
waits is told at once, and `check` says that this engine must be replaced.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar
from uuid import uuid4

from ramole.core.answer import Chunk, FinishReason, PartEnd
from ramole.core.call import current_call
from ramole.core.composition import Composition, Expert
from ramole.core.errors import InvalidInput, RamoleError, Unavailable, own_fault
from ramole.core.sampling import Sampling
from ramole.executor.engine import Engine, Update
from ramole.executor.sampler import make_sampler
from ramole.executor.sequence import Sequence
from ramole.executor.stages import note_stages
from ramole.executor.text import WHOLE, Part, Prompt, TextCodec, TextStream

_log = logging.getLogger(__name__)

T = TypeVar("T")

_BARE = Composition(k=0)

_WATCH_S = 0.2

# What one piece costs the transports behind, about. All streams together send no more of them than fit into the time.
_PIECE_S = 2e-4
_TICK_S = 1e-3


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer. `sequence` no longer changes."""

    sequence: Sequence
    finish_reason: FinishReason
    part_end: PartEnd | None = None
    """What ended it as a part of the answer; None = the answer is over."""


Event = Chunk | Done | RamoleError


@dataclass(slots=True)
class _Client:
    # Unbounded, but never longer than max_tokens of its request: a slow reader cannot hold more than that.
    events: asyncio.Queue[Event]
    text: TextStream
    part: Part = WHOLE


class EngineWorker:
    """Owns the engine and its thread from `start` to `stop`."""

    def __init__(
        self, codec: TextCodec, *, max_step_s: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            max_step_s: a step that takes longer is taken for one that never ends.
            clock: monotonic seconds.
        """
        self._codec = codec
        self._max_step_s = max_step_s
        self._clock = clock
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._clients: dict[str, _Client] = {}
        self._outbox: list[tuple[asyncio.Queue[Event], Event]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._busy_since: float | None = None
        self._is_stopping = False
        self._is_halted = False
        # Only the event loop touches these two.
        self._waiting: set[Callable[[RamoleError], None]] = set()
        self._failure = ""
        self._engine: Engine
        self._loop: asyncio.AbstractEventLoop
        self._watching: asyncio.Task[None]

    @property
    def num_callers(self) -> int:
        """Those who wait for the engine: requests and questions."""
        return len(self._waiting)

    def start(self, engine: Engine) -> None:
        """Starts the thread. Call on the event loop that will read the events."""
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the thread after its current step; whatever runs gets Unavailable. Leaves a stuck thread behind."""
        self._call(self._halt)
        while self._thread.is_alive() and not self._failure:
            await asyncio.to_thread(self._thread.join, _WATCH_S)
        self._watching.cancel()
        self._give_up("the engine has stopped")

    def check(self) -> None:
        """Raises Unavailable once the engine has failed: it must be replaced."""
        if not self._failure and not self._thread.is_alive():
            self._give_up("the engine has failed")
        if self._failure:
            raise _unavailable(self._failure)

    async def generate(
        self,
        prompt: Prompt,
        experts: tuple[Expert, ...],
        composition: Composition,
        sampling: Sampling,
        part: Part = WHOLE,
    ) -> AsyncGenerator[Chunk | Done, None]:
        """Runs one request. Closing the iterator frees everything it holds within one step.

        A piece holds all tokens that have come since the one before. With many streams there are fewer pieces of more
        tokens, so that together they cost no more than a transport has time for.

        Args:
            prompt: a text, a conversation, or tokens.
            sampling: of the whole answer: `max_tokens` counts what of it there is already.

        Raises:
            RamoleError: the request cannot run, one of its adapters is gone, or the engine failed.
        """
        self.check()
        arrived_s = self._clock()
        ids = await asyncio.to_thread(self._codec.tokens, prompt)
        self._codec.check(part.answer, field="answer_token_ids")
        if part.layers:
            ids = ids[: max(1, self._engine.max_len - 1 - len(part.answer))]
        num_answered = len(part.answer)
        if sampling.max_tokens is not None and num_answered >= sampling.max_tokens:
            raise InvalidInput(f"{num_answered} tokens are the whole answer", field="answer_token_ids", remedy="end it")
        sequence = Sequence(
            id=uuid4().hex,
            prompt=[*ids, *part.answer],
            max_tokens=(sampling.max_tokens or num_answered) - num_answered,
            experts=experts,
            composition=composition,
            arrived_s=arrived_s,
            sampler=make_sampler(sampling, self._engine.device),
            wants_logprobs=sampling.logprobs,
            num_top=sampling.top_logprobs,
            tenant=current_call().principal.tenant,
            num_answered=num_answered,
            layers=part.layers,
        )
        client = _Client(asyncio.Queue(), self._codec.stream(sampling, part), part)
        self._waiting.add(client.events.put_nowait)
        self._call(lambda: self._add(sequence, client))
        trace = current_call().trace
        told_s = float("-inf")
        try:
            while True:
                first = await client.events.get()
                early_s = told_s + len(self._waiting) * _PIECE_S - self._loop.time()
                if early_s > _TICK_S:
                    await asyncio.sleep(early_s)
                for event in _gathered(first, client.events):
                    if isinstance(event, RamoleError):
                        raise event
                    yield event
                    if isinstance(event, Done):
                        return
                told_s = self._loop.time()
        finally:
            self._waiting.discard(client.events.put_nowait)
            self._call(lambda: self._drop(sequence.id))
            if trace.is_kept:
                note_stages(trace, sequence, self._clock())

    async def read(self, text: str, answer: tuple[int, ...], layers: tuple[int, ...]) -> Sequence:
        """Has the bare base model read a text and the answer to it so far; the sequence has `states`.

        Raises:
            InvalidInput: no such token, or no such layer.
            RamoleError: as `generate`.
        """
        if not layers or not all(1 <= layer <= self._engine.depth for layer in layers):
            raise InvalidInput(f"layers {layers}", field="layers", remedy=f"give some of 1 to {self._engine.depth}")
        sampling = Sampling(max_tokens=len(answer) + 1)
        async with aclosing(self.generate(text, (), _BARE, sampling, Part(answer, layers=layers))) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.sequence
        raise Unavailable("a text was not read to its end", remedy="retry")

    async def evict(self, digests: Collection[str], *, abort: bool, tenant: str = "") -> int:
        """Drops adapters from the device; see Engine.evict."""
        return await self.ask(lambda engine: engine.evict(digests, abort=abort, tenant=tenant))

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Runs `question` on the engine's thread between two steps and returns its answer."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def tell(result: T | BaseException) -> None:
            if answer.done():
                return
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        def run() -> None:
            try:
                result: T | BaseException = question(self._engine)
            except Exception as error:
                result = error
            self._loop.call_soon_threadsafe(tell, result)

        self.check()
        self._waiting.add(tell)
        try:
            self._call(run)
            return await answer
        finally:
            self._waiting.discard(tell)

    def wake(self) -> None:
        """Makes a sleeping engine look again, for example because a load is done. Callable from any thread."""
        self._call(_nothing)

    def _call(self, command: Callable[[], None]) -> None:
        self._inbox.put(command)

    async def _watch(self) -> None:
        """Looks at the thread for ever, also after it has failed: for those who come in that moment."""
        since, stuck_s, looked_s = None, 0.0, self._clock()
        while True:
            await asyncio.sleep(_WATCH_S)
            now = self._clock()
            # A process that was suspended was stuck no longer than it could be watched.
            watched_s, looked_s = min(now - looked_s, 2 * _WATCH_S), now
            stuck_s = stuck_s + watched_s if since is not None and since == self._busy_since else 0.0
            since = self._busy_since
            if not self._thread.is_alive():
                self._give_up("the engine has failed")
            elif stuck_s > self._max_step_s or self._failure:
                self._is_stopping = True  # should it ever come back
                self._give_up(f"the engine is stuck in a step of more than {self._max_step_s:g} s")

    def _give_up(self, why: str) -> None:
        if not self._failure:
            self._failure = why
            _log.log(logging.INFO if self._is_halted else logging.ERROR, "%s; %d callers waited", why, self.num_callers)
        for tell in self._waiting:
            tell(_unavailable(self._failure))
        self._waiting.clear()

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                if not self._engine.has_work or self._engine.is_stalled:
                    self._busy_since = None
                    command = self._inbox.get()
                    self._busy_since = self._clock()
                    command()
                self._busy_since = self._clock()
                while not self._inbox.empty():
                    self._inbox.get()()
                for update in self._engine.step():
                    self._publish(update)
                self._flush()
        except Exception:
            _log.exception("the engine failed")

    def _halt(self) -> None:
        self._is_stopping = self._is_halted = True

    def _add(self, sequence: Sequence, client: _Client) -> None:
        try:
            self._engine.add(sequence)
        except Exception as error:
            self._outbox.append((client.events, own_fault(error, "the request could not be queued")))
            return
        self._clients[sequence.id] = client

    def _drop(self, sequence_id: str) -> None:
        self._engine.cancel(sequence_id)
        self._clients.pop(sequence_id, None)

    def _publish(self, update: Update) -> None:
        client = self._clients.get(update.sequence.id)
        if client is None:
            return
        try:
            self._tell(client, update)
        except Exception as error:
            self._outbox.append((client.events, own_fault(error, "the answer's text could not be made")))
            self._drop(update.sequence.id)

    def _tell(self, client: _Client, update: Update) -> None:
        if update.error is not None:
            self._outbox.append((client.events, update.error))
            self._clients.pop(update.sequence.id)
        elif update.sampled is not None:
            stream, reason = client.text, update.sequence.finish_reason
            text = stream.push(update.sampled.token)
            part_end = None
            if stream.is_stopped:
                reason = FinishReason.STOP
            elif reason is FinishReason.STOP and client.part.ends_with_experts:
                part_end = PartEnd.ADAPTERS
            elif reason is None and stream.is_part:
                reason, part_end = FinishReason.STOP, PartEnd.SEPARATOR
            elif reason is None and len(update.sequence.tokens) == client.part.max_tokens:
                reason, part_end = FinishReason.STOP, PartEnd.TOKENS
            if part_end is PartEnd.ADAPTERS:
                update.sequence.tokens.pop()  # whether the answer ends there is not known yet
            else:
                if reason is not None and part_end is None:
                    text += stream.flush()
                self._outbox.append((client.events, self._codec.chunk(text, update.sampled)))
            if reason is not None:
                self._outbox.append((client.events, Done(update.sequence, reason, part_end)))
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


def _gathered(first: Event, more: asyncio.Queue[Event]) -> Iterator[Event]:
    """What there is so far, neighbouring pieces of the answer as one."""
    events = [first]
    while not more.empty():
        events.append(more.get_nowait())
    pieces: list[Chunk] = []
    for event in events:
        if isinstance(event, Chunk):
            pieces.append(event)
            continue
        if pieces:
            yield _joined(pieces)
            pieces = []
        yield event
    if pieces:
        yield _joined(pieces)


def _joined(pieces: list[Chunk]) -> Chunk:
    if len(pieces) == 1:
        return pieces[0]
    return Chunk(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.token_ids),
        tuple(logprob for piece in pieces for logprob in piece.logprobs),
        tuple(said for piece in pieces for said in piece.token_bytes),
        tuple(top for piece in pieces for top in piece.top),
    )


def _unavailable(why: str) -> Unavailable:
    return Unavailable(why, remedy="retry with back-off: another replica, or the one that replaces this one")


def _nothing() -> None:
    pass
