"""Where a call goes: an address chosen by Ray Serve, or a fixed one. Nothing else knows how replicas are found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from ramole.core.call import current_call
from ramole.core.errors import Unavailable
from ramole.transport.affinity import Ticket

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


# Of two idle replicas, one is chosen so often in a row by chance once in 16 times.
_TRIES_TO_AVOID = 3

# Where there is a replica, it is chosen in less time than this, on a busy machine too.
_AWAKE_S = 1.0


class Picker(Protocol):
    """Chooses a replica of one service."""

    def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AbstractAsyncContextManager[str]:
        """``host:port`` of the replica for one call; the block lasts as long as the call.

        Args:
            affinity: digests of the adapters that the call needs.
            avoid: ``host:port`` of a replica that has just failed; taken only when there seems to be no other.

        Raises:
            Unavailable: no replica runs.
        """

    async def everyone(self) -> Sequence[str]:
        """``host:port`` of all replicas; none only where that is in order.

        Raises:
            Unavailable: no replica runs.
        """


class StaticPicker:
    """One server at a known address: one-process systems, tests, the client."""

    def __init__(self, address: str) -> None:
        self._address = address

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        """The address."""
        yield self._address

    async def everyone(self) -> Sequence[str]:
        """The address."""
        return (self._address,)


class DirectoryPicker:
    """A server of this process, known by name as soon as it serves.

    Args:
        directory: service -> ``host:port``; filled by whoever starts the servers.
        service: name of one of them.
    """

    def __init__(self, directory: Mapping[str, str], service: str) -> None:
        self._directory = directory
        self._service = service

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        """The address."""
        yield self._address()

    async def everyone(self) -> Sequence[str]:
        """The address."""
        return (self._address(),)

    def _address(self) -> str:
        address = self._directory.get(self._service)
        if address is None:
            raise Unavailable(f"{self._service} does not serve yet", remedy="retry with back-off")
        return address


class ServePicker:
    """Replicas of a Ray Serve deployment, ranked by its request router.

    The replicas are never called through Serve: they publish the address of their own gRPC server, see `replica.py`.

    Args:
        service: name of the deployment and of its application.
        max_wait_s: how long a call waits for the first replica to appear.
        may_be_none: whether it is in order that there is no replica: a call that waits is what starts the first.
    """

    def __init__(self, service: str, *, max_wait_s: float = 30.0, may_be_none: bool = False) -> None:
        self._service = service
        self._max_wait_s = max_wait_s
        self._may_be_none = may_be_none
        self._handle: DeploymentHandle | None = None

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        """Asks the request router. Costs about 0.3 ms."""
        ticket = Ticket(affinity, avoid)
        try:
            try:
                async with asyncio.timeout(current_call().budget_s(self._max_wait_s)):
                    address = await self._choose(ticket)
                    for _ in range(_TRIES_TO_AVOID):  # Serve's own routers take no ticket
                        if address != avoid:
                            break
                        address = await self._choose(ticket)
            except _not_yet() as error:
                raise self._unavailable() from error
            yield address
        finally:
            ticket.close()

    async def everyone(self) -> Sequence[str]:
        """Asks every running replica for its address. Starts none."""
        try:
            async with asyncio.timeout(current_call().budget_s(self._max_wait_s)):
                return tuple(await self._connect().broadcast("address").results_async())
        except _not_yet() as error:
            if self._may_be_none and not isinstance(error, TimeoutError):
                return ()
            raise self._unavailable() from error

    async def _choose(self, ticket: Ticket) -> str:
        if not self._may_be_none:
            return await self._choose_unseen(ticket)
        with suppress(TimeoutError):
            async with asyncio.timeout(_AWAKE_S):
                return await self._choose_unseen(ticket)
        # There is none, it seems. Who waits for a slot is seen by Serve's controller, which then starts one.
        async with self._connect().choose_replica(ticket) as selection:
            return str(selection.replica_metadata["address"])

    async def _choose_unseen(self, ticket: Ticket) -> str:
        # `_reserve` is private to this Ray release (pinned): it picks without holding a slot on the replica, which
        # would cost two more actor calls. The selection stays valid outside of its block because nothing is held.
        async with self._connect().choose_replica(ticket, _reserve=False) as selection:
            address: str = selection.replica_metadata["address"]
        return address

    def _connect(self) -> DeploymentHandle:
        if self._handle is None:
            from ray.serve.handle import DeploymentHandle

            self._handle = DeploymentHandle(self._service, self._service)
        return self._handle

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"no replica of {self._service} runs", remedy="retry with back-off")


def _not_yet() -> tuple[type[Exception], ...]:
    """No replica in time; or at once, as a handle says it, while the first replica of its deployment still starts."""
    from ray.serve.exceptions import DeploymentUnavailableError

    return (TimeoutError, DeploymentUnavailableError)
