"""One outgoing call: pick a replica, carry id and deadline over, retry once, translate errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import TypeVar

import grpc

from ramole.core.call import REQUEST_ID_KEY, CallContext, current_call
from ramole.core.errors import DeadlineExceeded, RamoleError, Unavailable
from ramole.core.trace import Trace
from ramole.transport.channels import Channels
from ramole.transport.errors import code_of, from_rpc_error, is_of_connection
from ramole.transport.identity import principal_to_metadata
from ramole.transport.picker import Picker

Request = TypeVar("Request")
Response = TypeVar("Response")
UnaryUnary = Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryMultiCallable[Request, Response]]
UnaryStream = Callable[[grpc.aio.Channel], grpc.aio.UnaryStreamMultiCallable[Request, Response]]
StreamUnary = Callable[[grpc.aio.Channel], grpc.aio.StreamUnaryMultiCallable[Request, Response]]

_log = logging.getLogger(__name__)


class Retries:
    """How many second tries the calls of one request have left, all together."""

    def __init__(self, left: int = 1) -> None:
        self._left = left

    @property
    def is_spent(self) -> bool:
        """Whether there is none left."""
        return self._left <= 0

    def take(self) -> bool:
        """Whether there was one left."""
        self._left -= 1
        return self._left >= 0


class Caller:
    """Calls one service, wherever its replicas are.

    Every method raises RamoleError as the server raised it, takes a time limit in seconds that the deadline of the
    current call may shorten, and cancels the call on the server when its own task is cancelled. `name` is that of the
    method, ``/ramole.v1.Executor/Evict``, in traces.

    A call is tried again once, when a replica said UNAVAILABLE or cannot be reached, on another replica if there is
    one. No other layer tries again what one has tried twice: the error says so, across all hops.

    Args:
        part: name of the service in errors and traces, instead of the addresses of its replicas; '' = the caller named
            the address himself, and nothing is tried twice.
        key: API key, of a public port.
    """

    def __init__(self, picker: Picker, channels: Channels, part: str = "", key: str = "") -> None:
        self._picker = picker
        self._channels = channels
        self._part = part
        self._key = key
        self._replicas: tuple[str, ...] | None = None
        self._told_pick: Callable[[float], None] = lambda seconds: None

    def report_picks(self, told: Callable[[float], None]) -> None:
        """Tells `told` from now on how many seconds each pick of a replica for a stream took."""
        self._told_pick = told

    async def unary(
        self,
        method: UnaryUnary[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        may_retry: bool = True,
        name: str = "",
    ) -> Response:
        """One request, one answer. Tried again as the class says, unless `may_retry` is false."""
        call = current_call()
        retries = Retries(1 if self._part and may_retry else 0)
        failed = ""
        while True:
            async with self._pick(call, (), failed) as address:
                try:
                    return await self._unary_at(address, method, request, call, timeout_s, name)
                except Unavailable as error:
                    if not _may_retry(error, retries):
                        raise
                    failed = address

    async def stream(
        self,
        method: UnaryStream[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        affinity: Sequence[str] = (),
        retries: Retries | None = None,
        name: str = "",
    ) -> AsyncGenerator[Response]:
        """One request, many answers. Tried again as the class says, unless an answer has already arrived.

        Closing the generator cancels the call on the server.

        Args:
            retries: shared with other calls, of work that may itself be what brings a replica down: it is then tried
                again on another replica only, and once that has failed too, nobody is advised to repeat it.
        """
        call = current_call()
        own = Retries(1 if self._part else 0)
        failed, failure = "", Unavailable("")
        while True:
            has_begun = False
            started_s = time.perf_counter()
            async with self._pick(call, affinity, failed) as address:
                self._told_pick(time.perf_counter() - started_s)
                if retries is not None and address == failed:
                    failure.is_final = True
                    raise failure
                try:
                    async with aclosing(self._stream_at(address, method, request, call, timeout_s, name)) as answers:
                        async for answer in answers:
                            has_begun = True
                            yield answer
                    return
                except Unavailable as error:
                    if retries is not None and retries.is_spent:
                        error.retry_after_s = None
                    if has_begun or not _may_retry(error, retries or own):
                        raise
                    failed, failure = address, error

    async def upload(
        self,
        method: StreamUnary[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout_s: float | None = None,
        name: str = "",
    ) -> Response:
        """Many requests, one answer. Never retried: what was sent cannot be read again.

        When `requests` itself fails, the call is cancelled, so that the server sees a broken stream, never a short one.
        When the server answers early, the next request is not waited for.
        """
        call = current_call()
        async with self._pick(call, (), "") as address:
            with self._traced(call, name, address) as trace:
                return await self._upload_at(address, method, requests, call, timeout_s, trace)

    async def check_any_serves(self, service: str, *, timeout_s: float = 1.0) -> None:
        """Raises Unavailable when no replica says in time that it serves. Not where it is in order that there is none:
        who asks would wait for the first. See `health`."""
        addresses = await self._known(timeout_s)
        if addresses == ():
            return
        if not any(await self._health(addresses or (), service, timeout_s)):
            raise Unavailable(f"no replica of {self._part or service} serves", remedy="retry with back-off")

    async def health(self, service: str, *, timeout_s: float = 1.0) -> list[bool]:
        """Asks all replicas for their health, by the name that the service has in protobuf: who says in time that it
        serves. Empty when none was ever known."""
        return await self._health(await self._known(timeout_s) or (), service, timeout_s)

    async def _known(self, timeout_s: float) -> tuple[str, ...] | None:
        """Addresses of all replicas; one that cannot be reached holds up all, and then they are those of the last time.
        None = there should be some, and none was ever known."""
        try:
            async with asyncio.timeout(timeout_s):
                self._replicas = tuple(await self._picker.everyone())
        except (TimeoutError, Unavailable):
            pass
        return self._replicas

    async def _health(self, addresses: Sequence[str], service: str, timeout_s: float) -> list[bool]:
        from grpc_health.v1 import health_pb2, health_pb2_grpc  # only servers have it

        async def is_serving(address: str) -> bool:
            check = health_pb2_grpc.HealthStub(self._channels.get(address)).Check
            try:
                answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        return await asyncio.gather(*map(is_serving, addresses))

    async def everywhere(
        self, method: UnaryUnary[Request, Response], request: Request, *, timeout_s: float | None = None, name: str = ""
    ) -> list[Response]:
        """The same request to every replica. Fails when one of them fails."""
        call = current_call()
        addresses = await self._picker.everyone()
        return await asyncio.gather(
            *(self._unary_at(address, method, request, call, timeout_s, name) for address in addresses)
        )

    async def whoever_answers(
        self, method: UnaryUnary[Request, Response], request: Request, *, timeout_s: float | None = None, name: str = ""
    ) -> list[Response]:
        """The same request to every replica: the answers of those that do not fail.

        Raises:
            RamoleError: as one of them failed, when all did.
        """
        call = current_call()
        addresses = await self._picker.everyone()
        answers = await asyncio.gather(
            *(self._unary_at(address, method, request, call, timeout_s, name) for address in addresses),
            return_exceptions=True,
        )
        good: list[Response] = []
        for answer in answers:
            if not isinstance(answer, BaseException):
                good.append(answer)
            elif not isinstance(answer, RamoleError):
                raise answer
        failed = next((answer for answer in answers if isinstance(answer, RamoleError)), None)
        if failed is not None and not good:
            raise failed
        return good

    @asynccontextmanager
    async def _pick(self, call: CallContext, affinity: Sequence[str], avoid: str) -> AsyncIterator[str]:
        async with AsyncExitStack() as stack:
            with _ending(call.trace.begin("pick", {"service": self._part})):
                try:
                    address = await stack.enter_async_context(self._picker.pick(affinity, avoid))
                except Unavailable as error:
                    error.is_final = True  # the picker has waited for a replica as long as it makes sense
                    raise
            yield address

    async def _unary_at(
        self,
        address: str,
        method: UnaryUnary[Request, Response],
        request: Request,
        call: CallContext,
        timeout_s: float | None,
        name: str,
    ) -> Response:
        stub = method(self._channels.get(address))
        with self._traced(call, name, address) as trace:
            try:
                return await stub(request, timeout=_timeout(call, timeout_s), metadata=self._metadata(call, trace))
            except grpc.aio.AioRpcError as error:
                raise self._raised(error, address) from None

    async def _stream_at(
        self,
        address: str,
        method: UnaryStream[Request, Response],
        request: Request,
        call: CallContext,
        timeout_s: float | None,
        name: str,
    ) -> AsyncGenerator[Response]:
        stub = method(self._channels.get(address))
        with self._traced(call, name, address) as trace:
            rpc = stub(request, timeout=_timeout(call, timeout_s), metadata=self._metadata(call, trace))
            try:
                async for answer in rpc:
                    yield answer
            except grpc.aio.AioRpcError as error:
                raise self._raised(error, address) from None
            finally:
                # Closing this generator does not end the call by itself: the server would go on for nobody.
                rpc.cancel()

    async def _upload_at(
        self,
        address: str,
        method: StreamUnary[Request, Response],
        requests: AsyncIterable[Request],
        call: CallContext,
        timeout_s: float | None,
        trace: Trace,
    ) -> Response:
        stub = method(self._channels.get(address))
        rpc = stub(timeout=_timeout(call, timeout_s), metadata=self._metadata(call, trace))
        has_answered = asyncio.Event()
        rpc.add_done_callback(lambda _: has_answered.set())
        sending = asyncio.create_task(_send(rpc, requests))
        waiting = asyncio.create_task(has_answered.wait())
        try:
            await asyncio.wait({sending, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            return await rpc
        except grpc.aio.AioRpcError as error:
            raise self._raised(error, address) from None
        finally:
            rpc.cancel()
            waiting.cancel()
            sending.cancel()
            # The requests are not read any more when this returns. What else became of them is not the answer.
            await asyncio.gather(sending, return_exceptions=True)

    def _traced(self, call: CallContext, name: str, address: str) -> AbstractContextManager[Trace]:
        """The span of a call to one replica. Its name is the method's, where the caller of this class tells it."""
        return _ending(call.trace.begin(name or self._part, {"address": address}, kind="client"))

    def _metadata(self, call: CallContext, trace: Trace) -> tuple[tuple[str, str], ...]:
        """Other services are told who asks; a public port finds it out by the key."""
        key = (("authorization", f"Bearer {self._key}"),) if self._key else ()
        who = principal_to_metadata(call.principal) if self._part else key
        return ((REQUEST_ID_KEY, call.request_id), *who, *self._channels.metadata, *trace.metadata)

    def _raised(self, error: grpc.aio.AioRpcError, address: str) -> RamoleError:
        """What the server raised. What the connection says goes to the log: it is full of our own addresses."""
        if self._part and is_of_connection(error):
            fields = {"address": address, "code": error.code().name}
            _log.warning("a call to %s failed: %s", self._part, error.details(), extra={"fields": fields})
        return from_rpc_error(error, self._part, unreachable=self._channels.remedy(address))


@contextmanager
def _ending(trace: Trace) -> Iterator[Trace]:
    """Ends a span with the block, by the code of what it raises. Who stops reading is content with what there is."""
    code = "CANCELLED"
    try:
        yield trace
        code = "OK"
    except GeneratorExit:
        code = "OK"
        raise
    except RamoleError as error:
        code = code_of(error).name
        raise
    finally:
        trace.end(code)


def _may_retry(error: Unavailable, retries: Retries) -> bool:
    """Whether the call is tried again. Where it is not, no layer on the way back does so either."""
    may_retry = not error.is_final and retries.take()
    error.is_final = not may_retry
    return may_retry


async def _send(rpc: grpc.aio.StreamUnaryCall[Request, Response], requests: AsyncIterable[Request]) -> None:
    async for request in requests:
        if not await _written(rpc.write(request)):
            return
    await _written(rpc.done_writing())


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
