"""Whether prompts would be answered now: each service behind the gateway has a replica that serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from ramole.core.errors import RamoleError, Unavailable
from ramole.transport.peers import Peers

# Anybody may ask, as often as he likes, and each answer takes a call to each replica.
_FRESH_S = 0.5

# On a busy machine an answer may take a while; whoever was well a moment ago is not given up at once.
_PATIENCE_S = 3.0

_WITHOUT = {
    "executor": "nothing is generated",
    "embedding": "no prompt is routed and no adapter taken",
    "retrieval": "its index finds nothing",
    "adapters": "no adapter is found or taken",
}
"""What a missing service means. An executor serves once it has the base model, retrieval while its index answers."""


class Readiness:
    """Asks all services for their health, once in a while, however often it is asked itself.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, peers: Peers, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._peers = peers
        self._clock = clock
        self._asked_s = float("-inf")
        self._asking: asyncio.Task[str] | None = None

    async def check(self) -> None:
        """Raises Unavailable, which names every service that is missing."""
        if self._asking is None or (self._asking.done() and self._clock() - self._asked_s >= _FRESH_S):
            self._asking = asyncio.create_task(self._missing())
        missing = await asyncio.shield(self._asking)
        if missing:
            raise Unavailable(missing, remedy="retry with back-off")

    async def close(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    async def _missing(self) -> str:
        found = await asyncio.gather(*map(self._serves, _WITHOUT))
        self._asked_s = self._clock()
        missing = [name for name, serves in zip(_WITHOUT, found, strict=True) if not serves]
        return "; ".join(f"no replica of {name} serves: {_WITHOUT[name]}" for name in missing)

    async def _serves(self, name: str) -> bool:
        try:
            await getattr(self._peers, name).check_any_serves(f"ramole.v1.{name.capitalize()}", timeout_s=_PATIENCE_S)
        except RamoleError:
            return False
        return True
