"""Protobuf <-> values of the gateway: fields are mapped here, and judged by the values themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from google.protobuf.timestamp_pb2 import Timestamp

from ramole.core.bounds import COUNTS
from ramole.core.call import Principal
from ramole.core.errors import InvalidInput
from ramole.core.settings import GatewaySettings, Settings
from ramole.gateway.parts import AnswerSoFar, Part
from ramole.gateway.values import Choice, Order, Routing
from ramole.transport.values import (
    composition_from_pb,
    composition_to_pb,
    finish_from_pb,
    messages_from_pb,
    messages_to_pb,
    part_end_to_pb,
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
            (whole.later_routings.add() if event.routing.part else whole.routing).CopyFrom(event.routing)
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
        part=routing.part,
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


def execution_to_pb(order: Order, routing: Routing, so_far: AnswerSoFar) -> executor_pb2.ExecuteRequest:
    """What the executor is asked to run next."""
    request = _sequence_to_pb(order, so_far)
    request.MergeFrom(
        executor_pb2.ExecuteRequest(
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
            composition=composition_to_pb(routing.composition.of_one_part),
            sampling=sampling_to_pb(order.sampling),
            part_ends=so_far.separators(),
            part_at_end=so_far.ends_with_adapters(routing),
            next_digests=routing.next_digests,
        )
    )
    return request


def question_to_pb(order: Order, so_far: AnswerSoFar) -> executor_pb2.ExecuteRequest:
    """Where the adapters end the answer: which token the bare base model would go on with, or whether it ends too."""
    request = _sequence_to_pb(order, so_far)
    greedy = replace(order.sampling, temperature=0.0, repetition_penalty=1.0)
    bare = replace(order.composition.of_one_part, k=0)
    request.MergeFrom(
        executor_pb2.ExecuteRequest(composition=composition_to_pb(bare), sampling=sampling_to_pb(greedy), part_tokens=1)
    )
    return request


def _sequence_to_pb(order: Order, so_far: AnswerSoFar) -> executor_pb2.ExecuteRequest:
    return executor_pb2.ExecuteRequest(
        prompt="" if order.messages else order.prompt,
        messages=messages_to_pb(order.messages),
        prompt_token_ids=order.tokens,
        answer_token_ids=so_far.tokens,
    )


def usage_to_pb(so_far: AnswerSoFar, *, first_token_s: float, total_s: float) -> gateway_pb2.UsageReport:
    """The last message of an answer: times in seconds from the arrival of the request at the gateway.

    Raises:
        Corrupt: the executor gave a finish reason that is unknown here.
    """
    runs = [run for part in so_far.parts for run in part.runs]
    finish_from_pb(runs[-1].finish_reason)
    parts = [_part_to_pb(part) for part in so_far.parts]
    return gateway_pb2.UsageReport(
        finish_reason=runs[-1].finish_reason,
        prompt_tokens=runs[0].prompt_tokens,
        completion_tokens=sum(run.completion_tokens for run in runs),
        adapters=parts[0].adapters if len(parts) == 1 else _joined(parts),
        queue_s=sum(run.queue_s for run in runs),
        first_token_s=first_token_s,
        total_s=total_s,
        max_batch=max(run.max_batch for run in runs),
        max_unique_adapters=max(run.max_unique_adapters for run in runs),
        prefill_s=sum(run.prefill_s for run in runs),
        decode_s=sum(run.decode_s for run in runs),
        parts=parts if so_far.is_in_parts else (),
    )


def _part_to_pb(part: Part) -> gateway_pb2.PartUsage:
    return gateway_pb2.PartUsage(
        completion_tokens=part.num_tokens,
        characters=part.num_chars,
        adapters=[
            gateway_pb2.AdapterUsage(
                adapter=ref_to_pb(choice.ref),
                similarity=choice.similarity,
                mean_weight=expert.mean_weight,
                layer_weights=expert.layer_weights,
                tier=expert.tier,
            )
            for choice, expert in zip(part.routing.choices, part.runs[0].experts, strict=True)
        ],
        queue_s=sum(run.queue_s for run in part.runs),
        prefill_s=sum(run.prefill_s for run in part.runs),
        decode_s=sum(run.decode_s for run in part.runs),
        end=part_end_to_pb(part.end),
    )


def _joined(parts: Sequence[gateway_pb2.PartUsage]) -> list[gateway_pb2.AdapterUsage]:
    """Each adapter once, with the means of its weights over the tokens of all parts; 0 where it had no part."""
    total = max(1, sum(part.completion_tokens for part in parts))
    joined: dict[str, gateway_pb2.AdapterUsage] = {}
    for part in parts:
        share = part.completion_tokens / total
        for usage in part.adapters:
            one = joined.setdefault(
                usage.adapter.digest,
                gateway_pb2.AdapterUsage(adapter=usage.adapter, similarity=usage.similarity, tier=usage.tier),
            )
            one.mean_weight += share * usage.mean_weight
            layers = zip_longest(one.layer_weights, usage.layer_weights, fillvalue=0.0)
            one.layer_weights[:] = [so_far + share * weight for so_far, weight in layers]
    return list(joined.values())


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
