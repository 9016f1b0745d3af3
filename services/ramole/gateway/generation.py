"""One generation: route, execute, report."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ramole.core.errors import AdapterRefused, Corrupt, DeadlineExceeded, NotFound, RamoleError, WrongState
from ramole.core.names import AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.routing import Router
from ramole.gateway.stages import Stages
from ramole.gateway.values import Order, Outcome, Piece, Routing, Usage
from ramole.transport.caller import Retries

_log = logging.getLogger(__name__)

_MAX_REROUTES = 3
_EXPERT = re.compile(r"experts\[(\d+)\]")


class Generation:
    """Answers orders."""

    def __init__(self, backends: Backends, router: Router) -> None:
        self._backends = backends
        self._router = router

    async def run(self, order: Order) -> AsyncGenerator[Routing | Piece | Usage]:
        """One routing, then pieces, then one usage. Closing the generator frees everything that the order holds.

        A retrieved adapter may be deleted before the executor has loaded it, or turn out to be damaged; the order is
        then routed once more, without it. The routing is therefore told only when the first piece is there.

        However often it is routed, an executor that fails under the order is replaced by another one once.

        Raises:
            DeadlineExceeded: the deadline of the call passed; it says which part was slow.
            RamoleError: as raised by the service at fault.
        """
        stages = Stages()
        try:
            async with aclosing(self._run(order, stages)) as events:
                async for event in events:
                    stages.enter("the client")
                    yield event
                    stages.enter("executor")
        except DeadlineExceeded as error:
            raise stages.too_slow() from error

    async def _run(self, order: Order, stages: Stages) -> AsyncGenerator[Routing | Piece | Usage]:
        arrived = time.perf_counter()
        without: set[AdapterRef] = set()
        retries = Retries(1)
        while True:
            routing = await self._router.plan(order, stages, without)
            stages.enter("executor")
            has_begun = False
            try:
                async with aclosing(self._attempt(order, routing, arrived, retries)) as events:
                    async for event in events:
                        if not has_begun:
                            has_begun = True
                            yield routing
                        yield event
                return
            except (NotFound, Corrupt, AdapterRefused, WrongState) as error:
                index = _expert_at_fault(error)
                if index is None or has_begun:
                    raise
                if order.named:
                    raise error.at(f"adapters[{index}].adapter") from error
                if len(without) == _MAX_REROUTES:
                    raise
                without.add(routing.choices[index].ref)
                _log.warning("routed once more without %s: %s", routing.choices[index].ref, error)

    async def _attempt(
        self, order: Order, routing: Routing, arrived: float, retries: Retries
    ) -> AsyncGenerator[Piece | Usage]:
        first_token_s = None
        execution = self._backends.execute(order.prompt, routing.choices, routing.composition, order.sampling, retries)
        async with aclosing(execution) as events:
            async for event in events:
                elapsed_s = time.perf_counter() - arrived
                if first_token_s is None:
                    first_token_s = elapsed_s
                if isinstance(event, Outcome):
                    yield Usage(routing, event, first_token_s, elapsed_s)
                else:
                    yield event


def _expert_at_fault(error: RamoleError) -> int | None:
    """The number of the expert that an executor's error is about."""
    match = _EXPERT.fullmatch(error.field)
    return None if match is None else int(match[1])
