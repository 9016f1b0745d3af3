"""One outgoing call: pick a replica, carry id and deadline over, retry once, translate errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import grpc

from ramole.core.errors import DeadlineExceeded, Unavailable
from ramole.transport.channels import Channels
from ramole.transport.context import CALLER_KEY, REQUEST_ID_KEY, CallContext, current_call
from ramole.transport.errors import from_rpc_error
from ramole.transport.picker import Picker

Request = TypeVar("Request")
Response = TypeVar("Response")
UnaryUnary = Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryMultiCallable[Request, Response]]
UnaryStream = Callable[[grpc.aio.Channel], grpc.aio.UnaryStreamMultiCallable[Request, Response]]
StreamUnary = Callable[[grpc.aio.Channel], grpc.aio.StreamUnaryMultiCallable[Request, Response]]


class Caller:
    """Calls one service, wherever its replicas are.

    Every method raises RamoleError as the server raised it, takes a time limit in seconds that the deadline of the
    current call may shorten, and cancels the call on the server when its own task is cancelled.
    """

    def __init__(self, picker: Picker, channels: Channels) -> None:
        self._picker = picker
        self._channels = channels

    async def unary(
        self,
        method: UnaryUnary[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        affinity: Sequence[str] = (),
        may_retry: bool = True,
    ) -> Response:
        """One request, one answer. UNAVAILABLE is tried once more, on a new pick, unless `may_retry` is false."""
        call = current_call()
        try:
            return await self._unary(method, request, call, timeout_s, affinity)
        except Unavailable:
            if not may_retry:
                raise
            return await self._unary(method, request, call, timeout_s, affinity)

    async def stream(
        self,
        method: UnaryStream[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        affinity: Sequence[str] = (),
    ) -> AsyncGenerator[Response]:
        """One request, many answers. UNAVAILABLE is tried once more unless an answer has already arrived.

        Closing the generator cancels the call on the server.
        """
        call = current_call()
        for may_retry in (True, False):
            has_begun = False
            try:
                async with aclosing(self._stream(method, request, call, timeout_s, affinity)) as answers:
                    async for answer in answers:
                        has_begun = True
                        yield answer
                return
            except Unavailable:
                if has_begun or not may_retry:
                    raise

    async def upload(
        self,
        method: StreamUnary[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """Many requests, one answer. Never retried: what was sent cannot be read again.

        When `requests` itself fails, the call is cancelled, so that the server sees a broken stream, never a short one.
        """
        call = current_call()
        async with self._picker.pick() as address:
            rpc = method(self._channels.get(address))(timeout=_timeout(call, timeout_s), metadata=_metadata(call))
            try:
                async for request in requests:
                    if not await _written(rpc.write(request)):
                        break
                else:
                    await _written(rpc.done_writing())
                return await rpc
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, self._channels.remedy(address)) from None
            finally:
                rpc.cancel()

    async def everywhere(
        self, method: UnaryUnary[Request, Response], request: Request, *, timeout_s: float | None = None
    ) -> list[Response]:
        """The same request to every replica. Fails when one of them fails."""
        call = current_call()
        addresses = await self._picker.everyone()
        return await asyncio.gather(
            *(self._unary_at(address, method, request, call, timeout_s) for address in addresses)
        )

    async def _unary(
        self,
        method: UnaryUnary[Request, Response],
        request: Request,
        call: CallContext,
        timeout_s: float | None,
        affinity: Sequence[str],
    ) -> Response:
        async with self._picker.pick(affinity) as address:
            return await self._unary_at(address, method, request, call, timeout_s)

    async def _unary_at(
        self,
        address: str,
        method: UnaryUnary[Request, Response],
        request: Request,
        call: CallContext,
        timeout_s: float | None,
    ) -> Response:
        stub = method(self._channels.get(address))
        try:
            return await stub(request, timeout=_timeout(call, timeout_s), metadata=_metadata(call))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._channels.remedy(address)) from None

    async def _stream(
        self,
        method: UnaryStream[Request, Response],
        request: Request,
        call: CallContext,
        timeout_s: float | None,
        affinity: Sequence[str],
    ) -> AsyncGenerator[Response]:
        async with self._picker.pick(affinity) as address:
            stub = method(self._channels.get(address))
            rpc = stub(request, timeout=_timeout(call, timeout_s), metadata=_metadata(call))
            try:
                async for answer in rpc:
                    yield answer
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, self._channels.remedy(address)) from None
            finally:
                # Closing this generator does not end the call by itself: the server would go on for nobody.
                rpc.cancel()


async def _written(write: Awaitable[None]) -> bool:
    """False when the server has answered before it read everything; its answer says why."""
    try:
        await write
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        return False
    return True


def _timeout(call: CallContext, limit_s: float | None) -> float | None:
    budget = call.budget_s(limit_s)
    if budget is not None and budget <= 0:
        raise DeadlineExceeded("the deadline of the call passed", remedy="give the call more time")
    return budget


def _metadata(call: CallContext) -> tuple[tuple[str, str], ...]:
    identity = ((CALLER_KEY, call.caller),) if call.caller else ()
    return ((REQUEST_ID_KEY, call.request_id), *identity)
