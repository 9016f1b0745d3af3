"""One answer: route, execute, report."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ramole.core.call import current_call
from ramole.core.errors import DeadlineExceeded, ExpertUnavailable, Internal
from ramole.core.names import AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.codec import execution_to_pb, usage_to_pb
from ramole.gateway.metrics import GatewayMetrics
from ramole.gateway.routing import AdapterChooser
from ramole.gateway.stages import Stages
from ramole.gateway.tenant_limits import TenantLimits
from ramole.gateway.values import LeftOut, Order, Routing
from ramole.transport.caller import Retries
from ramole.transport.stubs import reading
from ramole.v1.common_pb2 import TokenChunk
from ramole.v1.gateway_pb2 import UsageReport

_log = logging.getLogger(__name__)

_MAX_REROUTES = 3


class AnswerFlow:
    """Answers orders."""

    def __init__(
        self, backends: Backends, chooser: AdapterChooser, limits: TenantLimits, metrics: GatewayMetrics
    ) -> None:
        self._executor = backends.executor
        self._metrics = metrics
        self._chooser = chooser
        self._limits = limits

    async def run(self, order: Order) -> AsyncGenerator[Routing | TokenChunk | UsageReport]:
        """One routing, then the executor's pieces as they come, then one report.

        Closing the generator frees everything that the order holds.

        A retrieved adapter may be deleted before the executor has loaded it, or turn out to be damaged; the order is
        then routed once more, without it. One that the order names fails it, unless it allows to be answered without.
        The routing is therefore told only when the first piece is there, and says what was left out.

        However often it is routed, an executor that fails under the order is replaced by another one once.

        Raises:
            DeadlineExceeded: the deadline of the call passed; it says which part was slow.
            LimitExceeded: the caller's tenant has used up what it may.
            RamoleError: as raised by the service at fault.
        """
        call = current_call()
        tenant = call.principal.tenant
        with self._metrics.answer(tenant) as see, self._limits.request(tenant) as spend:
            call.trace.note("admission", call.trace.began_s, time.monotonic())
            async with aclosing(self._run(order)) as events:
                async for event in events:
                    see(event)
                    if isinstance(event, TokenChunk):
                        spend(len(event.token_ids))
                    elif isinstance(event, UsageReport):
                        spend(event.prompt_tokens)
                    yield event

    async def _run(self, order: Order) -> AsyncGenerator[Routing | TokenChunk | UsageReport]:
        arrived = time.perf_counter()
        stages, retries = Stages(), Retries(1)
        left_out: dict[AdapterRef, LeftOut] = {}
        try:
            order = await self._chooser.readable(order, stages)
            routing = await self._chooser.choose(order, stages)
            while True:
                routing = replace(routing, left_out=tuple(left_out.values()))
                stages.enter("executor")
                first_token_s: float | None = None
                stub = self._executor.stub_for([choice.ref.digest for choice in routing.choices], retries)
                try:
                    async with reading(stub.Execute(execution_to_pb(order, routing))) as events:
                        async for event in events:
                            elapsed_s = time.perf_counter() - arrived
                            stages.enter("the client")
                            if first_token_s is None:
                                first_token_s = elapsed_s
                                yield routing
                            if event.HasField("done"):
                                yield usage_to_pb(
                                    event.done, routing.choices, first_token_s=first_token_s, total_s=elapsed_s
                                )
                                return
                            yield event.chunk
                            stages.enter("executor")
                    raise Internal("the executor ended its answer without a report")
                except ExpertUnavailable as error:
                    ref = routing.choices[error.expert].ref
                    may_route = not order.named and len(left_out) < _MAX_REROUTES
                    if first_token_s is not None or not (may_route or order.allows_degraded):
                        named = f"adapters[{error.expert}].adapter" if order.named else ""
                        raise error.of_adapter(named) from error
                    left_out[ref] = LeftOut(ref, error.problem.reason())
                    _log.warning("goes on without %s: %s", ref, error)
                # Names are not looked up again: what became of them meanwhile is not what was asked for.
                routing = await self._chooser.choose(order, stages, left_out) if may_route else routing.without(ref)
        except DeadlineExceeded as error:
            raise stages.too_slow() from error
