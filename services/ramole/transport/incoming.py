"""What a client streams in: never waited for without end, never mistaken for complete when it broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, TypeAlias

import grpc

from ramole.core.errors import Cancelled, DeadlineExceeded
from ramole.transport.undecodable import decoded

# Quoted: the generic parameters exist in the type stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# How long a refused client may go on sending, and be silent meanwhile, so that it hears why it was refused.
_READ_ON_S = 10.0
_READ_ON_IDLE_S = 1.0


class Incoming:
    """One stream of requests.

    A read that has begun is never cancelled: gRPC writes its result into memory that belongs to the waiting task, even
    after that task is gone. Who stops waiting leaves the read behind, and the next one who waits takes it over.

    Args:
        context: of the call.
        idle_s: the longest silence of the client while its next message is awaited.
        is_checked: whether the end of the stream is checked to be one; not possible once an answer has been written.
    """

    def __init__(self, context: Context, idle_s: float, *, is_checked: bool) -> None:
        self._context = context
        self._idle_s = idle_s
        self._is_checked = is_checked
        self._reading: asyncio.Task[Any] | None = None

    async def messages(self) -> AsyncIterator[Any]:
        """All messages.

        Raises:
            DeadlineExceeded: the client was silent for too long.
            Cancelled: it went away. grpc.aio ends a cancelled or disconnected stream as it ends a complete one, before
                it cancels the handler; only a stream that still lives takes the headers.
        """
        while True:
            try:
                message = await self._next(self._idle_s)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"no message of the client for {self._idle_s:g} s",
                    field="server.idle_s",
                    remedy="send the stream without such pauses, and end it",
                ) from error
            if message is grpc.aio.EOF:
                break
            yield decoded(message)
        if not self._is_checked:
            return
        try:
            await self._context.send_initial_metadata(())
        except Exception as error:
            raise Cancelled("the client went away before the end of its stream") from error

    async def read_on(self) -> None:
        """Discards what a refused client still sends, for a while.

        A client written with grpc.aio loses the status of a call that ends while it writes, and reports INTERNAL.
        """
        with suppress(Exception):  # the time is over, or a message cannot be read
            async with asyncio.timeout(_READ_ON_S):
                while await self._next(_READ_ON_IDLE_S) is not grpc.aio.EOF:
                    pass

    async def _next(self, limit_s: float) -> Any:
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._context.read())
            self._reading.add_done_callback(_heard)
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(self._reading)
        finally:
            if self._reading.done():
                self._reading = None


def _heard(reading: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear how a read has ended."""
    if not reading.cancelled():
        reading.exception()
