"""What the client repeats by itself: calls that change nothing, after the time that their error gives."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from ramole.core.errors import RamoleError
from ramole.transport import caller
from ramole.transport.channels import Channels
from ramole.transport.picker import Picker
from ramole.transport.stubs import Remote
from ramole.v1 import gateway_pb2

T = TypeVar("T")
Stub = TypeVar("Stub")

_LONGEST_WAIT_S = 60.0
_JITTER = 0.25
"""Of the wait, so that clients that were refused together do not come back together."""

_REPEATABLE = (
    gateway_pb2.GenerateRequest,
    gateway_pb2.CompleteRequest,
    gateway_pb2.GenerateBatchRequest,
    gateway_pb2.RouteRequest,
    gateway_pb2.GetAdapterRequest,
    gateway_pb2.ListAdaptersRequest,
    gateway_pb2.GetHistoryRequest,
    gateway_pb2.DownloadAdapterRequest,
    gateway_pb2.DescribeRequest,
)


class Tries:
    """The tries of one call.

    Args:
        retries: how many may follow the first.
        timeout_s: for all of them and the waits between them; None = no limit.
    """

    def __init__(self, retries: int, timeout_s: float | None) -> None:
        self._left = retries
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def remaining_s(self) -> float | None:
        """The time limit of the next try."""
        return None if self._end_s is None else max(self._end_s - time.monotonic(), 0.0)

    async def wait_after(self, error: RamoleError) -> None:
        """Returns when it is time for the next try. Raises `error` when there is none."""
        if error.retry_after_s is None or self._left <= 0:
            raise error
        wait_s = error.retry_after_s * (1 + random.random() * _JITTER)
        remaining_s = self.remaining_s()
        if wait_s > _LONGEST_WAIT_S or (remaining_s is not None and wait_s >= remaining_s):
            raise error
        self._left -= 1
        await asyncio.sleep(wait_s)


async def repeated(call: Callable[[float | None], Awaitable[T]], retries: int, timeout_s: float | None) -> T:
    """Makes a call until it succeeds, or must not be repeated.

    Args:
        call: takes the time limit of this try in seconds.
        retries, timeout_s: as for `Tries`.
    """
    tries = Tries(retries, timeout_s)
    while True:
        try:
            return await call(tries.remaining_s())
        except RamoleError as error:
            await tries.wait_after(error)


class PublicRemote(Remote[Stub]):
    """The public service. What changes nothing is repeated when an error allows it; a stream, until its first message.

    Args:
        retries: how many tries may follow the first; what changes something has none.
    """

    def __init__(
        self,
        make_stub: Callable[[Any], Stub],
        picker: Picker,
        channels: Channels,
        *,
        key: str,
        retries: int,
    ) -> None:
        super().__init__(make_stub, picker, channels, key=key)
        self._retries = retries

    async def unary(
        self,
        method: caller.UnaryUnary[caller.Request, caller.Response],
        request: caller.Request,
        *,
        timeout_s: float | None = None,
        may_retry: bool = True,
        name: str = "",
    ) -> caller.Response:
        """See `Caller.unary`."""
        once = super().unary
        retries = self._retries if isinstance(request, _REPEATABLE) else 0
        return await repeated(lambda limit_s: once(method, request, timeout_s=limit_s, name=name), retries, timeout_s)

    async def stream(
        self,
        method: caller.UnaryStream[caller.Request, caller.Response],
        request: caller.Request,
        *,
        timeout_s: float | None = None,
        affinity: Sequence[str] = (),
        retries: caller.Retries | None = None,
        name: str = "",
    ) -> AsyncGenerator[caller.Response]:
        """See `Caller.stream`."""
        once = super().stream
        tries = Tries(self._retries if isinstance(request, _REPEATABLE) else 0, timeout_s)
        while True:
            has_begun = False
            try:
                async with aclosing(once(method, request, timeout_s=tries.remaining_s(), name=name)) as answers:
                    async for answer in answers:
                        has_begun = True
                        yield answer
                return
            except RamoleError as error:
                if has_begun:
                    raise
                await tries.wait_after(error)
