"""A service through the stub that is generated for it, with calls that go the way of a `Caller`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

import grpc

from ramole.transport.caller import Caller, Retries
from ramole.transport.channels import Channels
from ramole.transport.picker import Picker

TRIED_ONCE = frozenset({"/ramole.v1.Adapters/Restage", "/ramole.v1.Adapters/DeleteStored"})
"""Methods that are never called again by themselves: a second try would stage another version, or find nothing.

Nor are those that stream requests: what was sent cannot be read again.
"""

Stub = TypeVar("Stub")
Request = TypeVar("Request")
Response = TypeVar("Response")


class Remote(Caller, Generic[Stub]):
    """One service, as a caller with its generated stub.

    Args:
        make_stub: the class of the generated stub.
    """

    def __init__(
        self,
        make_stub: Callable[[grpc.aio.Channel], Stub],
        picker: Picker,
        channels: Channels,
        part: str = "",
        key: str = "",
    ) -> None:
        super().__init__(picker, channels, part, key)
        self._make_stub = make_stub

    @cached_property
    def stub(self) -> Stub:
        """Each call goes to the replica that the picker names for it. Read streamed answers through `reading`."""
        return self.stub_for()

    def stub_for(self, affinity: Sequence[str] = (), retries: Retries | None = None) -> Stub:
        """The same for calls that stream answers, with `affinity` and `retries` as in `Caller.stream`."""
        return self._make_stub(cast(grpc.aio.Channel, _CallerChannel(self, affinity, retries)))


class _CallerChannel:
    """Looks like a channel to a generated stub, which tells it the path and the messages of each method."""

    def __init__(self, caller: Caller, affinity: Sequence[str], retries: Retries | None) -> None:
        self._caller = caller
        self._affinity = affinity
        self._retries = retries

    def unary_unary(self, path: str, **messages: Any) -> Callable[..., Any]:
        may_retry = path not in TRIED_ONCE
        return lambda request, *, timeout=None: self._caller.unary(
            lambda channel: channel.unary_unary(path, **messages),
            request,
            timeout_s=timeout,
            may_retry=may_retry,
            name=path,
        )

    def unary_stream(self, path: str, **messages: Any) -> Callable[..., Any]:
        return lambda request, *, timeout=None: self._caller.stream(
            lambda channel: channel.unary_stream(path, **messages),
            request,
            timeout_s=timeout,
            affinity=self._affinity,
            retries=self._retries,
            name=path,
        )

    def stream_unary(self, path: str, **messages: Any) -> Callable[..., Any]:
        return lambda requests, *, timeout=None: self._caller.upload(
            lambda channel: channel.stream_unary(path, **messages), requests, timeout_s=timeout, name=path
        )


def reading(call: grpc.aio.UnaryStreamCall[Request, Response]) -> aclosing[AsyncGenerator[Response]]:
    """The answers of a `Remote.stub`, inside the block; leaving it cancels the call on the server.

    The generated types say what a stub on a channel gives; a peer's gives a generator.
    """
    return aclosing(cast(AsyncGenerator[Response], call))
