"""One generation: route, execute, report."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ramole.core.errors import NotFound
from ramole.gateway.backends import Backends
from ramole.gateway.routing import Router
from ramole.gateway.values import Order, Outcome, Piece, Routing, Usage


class Generation:
    """Answers orders."""

    def __init__(self, backends: Backends, router: Router) -> None:
        self._backends = backends
        self._router = router

    async def run(self, order: Order) -> AsyncGenerator[Routing | Piece | Usage]:
        """One routing, then pieces, then one usage. Closing the generator frees everything that the order holds.

        A retrieved adapter may be deleted before the executor has loaded it; the order is then routed once more. The
        routing is therefore told only when the first piece is there.
        """
        arrived = time.perf_counter()
        for may_reroute in (not order.named, False):
            routing = await self._router.plan(order)
            has_begun = False
            try:
                async with aclosing(self._attempt(order, routing, arrived)) as events:
                    async for event in events:
                        if not has_begun:
                            has_begun = True
                            yield routing
                        yield event
                return
            except NotFound:
                if has_begun or not may_reroute:
                    raise

    async def _attempt(self, order: Order, routing: Routing, arrived: float) -> AsyncGenerator[Piece | Usage]:
        first_token_s = None
        execution = self._backends.execute(order.prompt, routing.choices, routing.composition, order.sampling)
        async with aclosing(execution) as events:
            async for event in events:
                elapsed_s = time.perf_counter() - arrived
                if first_token_s is None:
                    first_token_s = elapsed_s
                if isinstance(event, Outcome):
                    yield Usage(routing, event, first_token_s, elapsed_s)
                else:
                    yield event
