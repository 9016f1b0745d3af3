"""One answer: route, execute, report."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ramole.core.call import current_call
from ramole.core.errors import DeadlineExceeded, ExpertUnavailable, Internal
from ramole.gateway.backends import Backends
from ramole.gateway.codec import execution_to_pb, question_to_pb, usage_to_pb
from ramole.gateway.metrics import GatewayMetrics
from ramole.gateway.parts import AnswerSoFar, Part
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

        With re-routing the answer is in parts, each with a routing before its pieces. Between two parts nothing is
        held: the next one is a sequence of its own, whose executor reads prompt and answer so far anew.

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
        first_token_s = 0.0
        try:
            order = await self._chooser.readable(order, stages)
            so_far = AnswerSoFar(order.composition, await self._chooser.named(order, stages))
            routing = await self._chooser.choose(order, stages, so_far)
            part, request = Part(routing), execution_to_pb(order, routing, so_far)
            while True:
                stages.enter("executor")
                stub = self._executor.stub_for([expert.digest for expert in request.experts], retries)
                try:
                    async with reading(stub.Execute(request)) as events:
                        async for event in events:
                            stages.enter("the client")
                            if not part.has_begun:
                                so_far.begin(part)
                                first_token_s = first_token_s or time.perf_counter() - arrived
                                yield part.routing
                            if event.HasField("done"):
                                part.ran(event.done)
                                break
                            so_far.take(event.chunk)
                            yield event.chunk
                            stages.enter("executor")
                        else:
                            raise Internal("the executor ended its answer without a report")
                except ExpertUnavailable as error:
                    routing = await self._around(error, order, part, so_far, stages)
                    part, request = Part(routing), execution_to_pb(order, routing, so_far)
                    continue
                if part.asks_base:
                    request = question_to_pb(order, so_far)
                    continue
                if part.end is None:
                    total_s = time.perf_counter() - arrived
                    yield usage_to_pb(so_far, first_token_s=first_token_s, total_s=total_s)
                    return
                routing = await self._next(order, part, so_far, stages)
                part, request = Part(routing), execution_to_pb(order, routing, so_far)
        except DeadlineExceeded as error:
            raise stages.too_slow() from error

    async def _around(
        self, error: ExpertUnavailable, order: Order, part: Part, so_far: AnswerSoFar, stages: Stages
    ) -> Routing:
        """Another routing, without an adapter that cannot be used. Raises its error where that may not be."""
        ref = part.routing.choices[error.expert].ref
        may_route = not order.named and len(so_far.left_out) < _MAX_REROUTES
        if part.has_begun or not (may_route or order.allows_degraded):
            raise error.of_adapter(so_far.field_of(error.expert, ref)) from error
        so_far.left_out[ref] = LeftOut(ref, error.problem.reason())
        _log.warning("goes on without %s: %s", ref, error)
        # Names are not looked up again: what became of them meanwhile is not what was asked for.
        if may_route or (order.named and so_far.is_in_parts):
            return await self._chooser.choose(order, stages, so_far)
        return replace(part.routing.without(ref), left_out=tuple(so_far.left_out.values()))

    async def _next(self, order: Order, part: Part, so_far: AnswerSoFar, stages: Stages) -> Routing:
        """Of the part behind `part`. When everybody has answered, who did last goes on to the end."""
        routing = await self._chooser.choose(order, stages, so_far)
        if routing.choices or routing.has_fallen_back:
            return routing
        so_far.is_last = True
        return replace(part.routing, part=so_far.number)
