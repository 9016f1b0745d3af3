"""Protobuf <-> values of the gateway: fields are mapped here, and judged by the values themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from ramole.core.bounds import COUNTS
from ramole.core.call import Principal
from ramole.core.errors import InvalidInput
from ramole.core.settings import GatewaySettings, Settings
from ramole.gateway.values import Choice, Order, Routing
from ramole.transport.values import (
    composition_from_pb,
    composition_to_pb,
    finish_from_pb,
    messages_from_pb,
    messages_to_pb,
    ref_to_pb,
    sampling_from_pb,
    sampling_to_pb,
)
from ramole.v1 import common_pb2, executor_pb2, gateway_pb2


def order_from_pb(message: gateway_pb2.GenerateRequest, settings: GatewaySettings) -> Order:
    """A Generate request with every default filled in.

    Raises:
        InvalidInput: naming the field at fault and the remedy.
    """
    if message.fallback not in (gateway_pb2.FALLBACK_UNSPECIFIED, gateway_pb2.FALLBACK_BASE_MODEL):
        raise InvalidInput(f"unknown fallback {message.fallback}", field="fallback", remedy="see Fallback")
    return Order.of(
        message.prompt,
        [
            (
                named.adapter,
                named.weight if named.HasField("weight") else 1.0,
                named.scale if named.HasField("scale") else 1.0,
            )
            for named in message.adapters
        ],
        composition_from_pb(message.composition, settings.composition),
        sampling_from_pb(message.sampling),
        may_fall_back=message.fallback == gateway_pb2.FALLBACK_BASE_MODEL,
        messages=messages_from_pb(message.messages),
        query=message.query,
        tokens=message.prompt_token_ids,
        allows_degraded=message.allow_degraded,
        tags=message.tags,
        max_prompt_chars=settings.max_prompt_chars,
    )


def whole_to_pb(events: Sequence[gateway_pb2.GenerateResponse]) -> gateway_pb2.CompleteResponse:
    """All events of one answer, as one piece."""
    whole, texts = gateway_pb2.CompleteResponse(), []
    for event in events:
        if event.HasField("chunk"):
            texts.append(event.chunk.text)
            whole.answer.MergeFrom(event.chunk)
        elif event.HasField("routing"):
            whole.routing.CopyFrom(event.routing)
        else:
            whole.usage.CopyFrom(event.usage)
    whole.answer.text = "".join(texts)
    return whole


def routing_to_pb(routing: Routing, *, request_id: str, base_model: str) -> gateway_pb2.RoutingReport:
    """The first message of an answer."""
    return gateway_pb2.RoutingReport(
        request_id=request_id,
        base_model=base_model,
        adapters=_routed_to_pb(routing.choices),
        composition=composition_to_pb(routing.composition),
        fallback=routing.has_fallen_back,
        embed_s=routing.embed_s,
        search_s=routing.search_s,
        doubt=routing.doubt,
        left_out=[
            gateway_pb2.LeftOutAdapter(adapter=ref_to_pb(each.ref), reason=each.reason) for each in routing.left_out
        ],
    )


def route_to_pb(routing: Routing) -> gateway_pb2.RouteResponse:
    """What a prompt would get."""
    return gateway_pb2.RouteResponse(
        adapters=_routed_to_pb(routing.choices),
        embed_s=routing.embed_s,
        search_s=routing.search_s,
        doubt=routing.doubt,
    )


def _routed_to_pb(choices: Sequence[Choice]) -> list[gateway_pb2.RoutedAdapter]:
    return [gateway_pb2.RoutedAdapter(adapter=ref_to_pb(each.ref), similarity=each.similarity) for each in choices]


def execution_to_pb(order: Order, routing: Routing) -> executor_pb2.ExecuteRequest:
    """What the executor is asked to run."""
    return executor_pb2.ExecuteRequest(
        prompt="" if order.messages else order.prompt,
        messages=messages_to_pb(order.messages),
        prompt_token_ids=order.tokens,
        experts=[
            executor_pb2.Expert(
                digest=each.ref.digest,
                similarity=each.similarity,
                weight=each.weight,
                scale=each.scale,
                tenant=each.ref.tenant,
            )
            for each in routing.choices
        ],
        composition=composition_to_pb(routing.composition),
        sampling=sampling_to_pb(order.sampling),
    )


def usage_to_pb(
    done: executor_pb2.ExecuteDone, choices: Sequence[Choice], *, first_token_s: float, total_s: float
) -> gateway_pb2.UsageReport:
    """The last message of an answer: times in seconds from the arrival of the request at the gateway.

    Raises:
        Corrupt: the executor gave a finish reason that is unknown here.
    """
    finish_from_pb(done.finish_reason)
    return gateway_pb2.UsageReport(
        finish_reason=done.finish_reason,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        adapters=[
            gateway_pb2.AdapterUsage(
                adapter=ref_to_pb(choice.ref),
                similarity=choice.similarity,
                mean_weight=expert.mean_weight,
                layer_weights=expert.layer_weights,
                tier=expert.tier,
            )
            for choice, expert in zip(choices, done.experts, strict=True)
        ],
        queue_s=done.queue_s,
        first_token_s=first_token_s,
        total_s=total_s,
        max_batch=done.max_batch,
        max_unique_adapters=done.max_unique_adapters,
        prefill_s=done.prefill_s,
        decode_s=done.decode_s,
    )


def describe_to_pb(
    statuses: list[executor_pb2.GetStatusResponse],
    *,
    version: str,
    base_model: str,
    settings: Settings,
    encoder_id: str,
    caller: Principal,
) -> gateway_pb2.DescribeResponse:
    """The load of all executor replicas together, and what all of them can do."""
    steps = [status.fullest_step for status in statuses]
    time = Timestamp()
    time.GetCurrentTime()
    return gateway_pb2.DescribeResponse(
        version=version,
        base_model=base_model,
        default_composition=composition_to_pb(settings.gateway.composition),
        running=sum(status.running for status in statuses),
        waiting=sum(status.waiting for status in statuses),
        num_slots=sum(status.num_slots for status in statuses),
        resident_adapters=len({digest for status in statuses for digest in status.resident_digests}),
        fullest_step=max(steps, key=lambda step: (len(step.digests), step.b), default=None),
        limits=gateway_pb2.Limits(
            max_prompt_chars=settings.gateway.max_prompt_chars,
            max_len=min((status.max_len for status in statuses), default=_known(settings.executor.max_len)),
            max_waiting=min((status.max_waiting for status in statuses), default=settings.executor.max_waiting),
            max_batch_requests=COUNTS["requests"].high,
            max_upload_bytes=settings.adapters.max_upload_bytes,
            max_rank=settings.adapters.max_rank,
            max_samples=settings.adapters.max_samples,
        ),
        router=next((status.router for status in statuses if status.router), ""),
        encoder_id=encoder_id,
        has_chat_template=bool(statuses) and all(status.has_chat_template for status in statuses),
        caller=gateway_pb2.Caller(tenant=caller.tenant, name=caller.name, roles=sorted(caller.roles)),
        time=time,
        max_running=sum(status.max_running for status in statuses),
        ended=sum(status.ended for status in statuses),
        tokens_out=sum(status.tokens_out for status in statuses),
        tiers=_tiers([tier for status in statuses for tier in status.tiers]),
    )


def _known(max_len: int | str) -> int:
    """0 = an executor will find it out."""
    return 0 if max_len == "auto" else int(max_len)


def services_to_pb(health: Mapping[str, Sequence[bool]]) -> list[gateway_pb2.ServiceStatus]:
    """How many replicas of each service there are, and how many serve."""
    return [
        gateway_pb2.ServiceStatus(name=name, replicas=len(serving), serving=sum(serving))
        for name, serving in health.items()
    ]


def _tiers(statuses: Sequence[common_pb2.TierStatus]) -> list[common_pb2.TierStatus]:
    """Of all executors together, the nearest tier first."""
    tiers: dict[int, common_pb2.TierStatus] = {}
    for each in statuses:
        one = tiers.setdefault(each.tier, common_pb2.TierStatus(tier=each.tier))
        one.adapters += each.adapters
        one.bytes += each.bytes
        one.hits += each.hits
        one.misses += each.misses
    return [tiers[tier] for tier in sorted(tiers)]
