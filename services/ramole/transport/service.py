"""What the transport needs to know about a service: how to start it, put it on a server and stop it."""

from __future__ import annotations

from typing import Protocol

import grpc


class Service(Protocol):
    """One of the five services. Runs the same inside a Ray Serve replica and in a plain process."""

    full_name: str
    """Protobuf name, for example ``ramole.v1.Embedding``: used by health and reflection."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the generated servicer to `server`."""

    async def start(self) -> None:
        """Loads models, opens files. The server reports NOT_SERVING until this returns."""

    async def close(self) -> None:
        """Frees everything. Called once, after the last call has ended."""

    def routing_stats(self) -> dict[str, object]:
        """What a picker may want to know about this replica, e.g. resident adapters. May be empty."""

    def load(self) -> float:
        """Work in progress, in requests: what autoscaling looks at."""
