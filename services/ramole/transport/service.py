"""What the transport needs to know about a service: how to start it, put it on a server, watch and stop it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import grpc
from prometheus_client import CollectorRegistry

from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import Kind


class Service(ABC):
    """One of the five services. Runs the same inside a Ray Serve replica and in a plain process.

    Attributes:
        name: short name: of its settings, its application on Ray and its metrics.
        full_name: protobuf name, for example ``ramole.v1.Embedding``: used by health and reflection.
        kinds: which of its methods are no plain calls. What streams in is a transfer anyway.
        max_message_bytes: what one message to it may hold. Weights travel in chunks.
    """

    name: str
    full_name: str
    kinds: ClassVar[Mapping[str, Kind]] = {}
    max_message_bytes: ClassVar[int] = 4 * 2**20

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Its metrics and those of its calls."""
        return CollectorRegistry()

    @abstractmethod
    def register(self, server: grpc.aio.Server) -> None:
        """Adds the generated servicer to `server`."""

    @abstractmethod
    async def start(self) -> None:
        """Loads models, opens files. The server reports NOT_SERVING until this returns."""

    async def open(self, bracket: CallBracket) -> None:  # noqa: B027  # most services listen on one port
        """Listens on what other ports it has, once it has started; their calls go through the same bracket."""

    @property
    def http_address(self) -> str:
        """``host:port`` where it answers HTTP; '' = it does not."""
        return ""

    def begin_drain(self) -> None:  # noqa: B027
        """The server takes no more calls: those who come there hear so, and are not kept."""

    async def drain(self, grace_s: float) -> None:  # noqa: B027
        """Stops listening there. Its calls have ended; their last words have `grace_s` to arrive."""

    @abstractmethod
    async def close(self) -> None:
        """Frees everything. Called once, after the last call has ended."""

    def check_health(self) -> None:  # noqa: B027  # most services fail with their process
        """Raises RamoleError when this replica must be replaced by another."""

    async def check_ready(self) -> None:  # noqa: B027  # most services serve as long as they are well
        """Raises RamoleError when clients should go elsewhere for now, although nothing is wrong with this replica."""

    def usage(self) -> Mapping[str, float]:
        """How full it is, where calls in flight do not say it."""
        return {}

    def routing_stats(self) -> dict[str, object]:
        """What a picker may want to know about this replica, e.g. resident adapters."""
        return {}
