"""Protobuf <-> values of the gateway. Validation that needs no other service happens here."""

from __future__ import annotations

from datetime import UTC

from ramole.core import access
from ramole.core.bounds import check_count, check_number
from ramole.core.composition import Composition, Weighting
from ramole.core.errors import InvalidInput
from ramole.core.settings import GatewaySettings
from ramole.gateway.values import (
    Choice,
    ExpertUsage,
    FinishReason,
    NamedAdapter,
    Order,
    Outcome,
    Piece,
    Record,
    Report,
    Routing,
    Usage,
)
from ramole.transport.values import composition_from_pb, composition_to_pb, ref_from_pb, ref_to_pb, sampling_from_pb
from ramole.v1 import adapters_pb2, common_pb2, executor_pb2, gateway_pb2

_FINISH = {
    common_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    common_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_FINISH_OUT = {reason: code for code, reason in _FINISH.items()}


def prompt_from_pb(prompt: str, settings: GatewaySettings) -> str:
    """Raises InvalidInput for an empty or overlong prompt."""
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", field="prompt", remedy="send some text")
    if len(prompt) > settings.max_prompt_chars:
        raise InvalidInput(
            f"{len(prompt)} characters", field="prompt", remedy=f"send at most {settings.max_prompt_chars}"
        )
    return prompt


def order_from_pb(message: gateway_pb2.GenerateRequest, settings: GatewaySettings) -> Order:
    """A Generate request with every default filled in.

    Raises:
        InvalidInput: naming the field at fault and the remedy.
    """
    prompt = prompt_from_pb(message.prompt, settings)
    check_count("adapters", len(message.adapters))
    named = tuple(_named_from_pb(i, adapter) for i, adapter in enumerate(message.adapters))
    composition = composition_from_pb(message.composition, settings.composition)
    if composition.weighting is Weighting.EXPLICIT and not named:
        raise InvalidInput(
            "explicit weights without adapters", field="adapters", remedy="name the adapters that the weights belong to"
        )
    if message.fallback not in (gateway_pb2.FALLBACK_UNSPECIFIED, gateway_pb2.FALLBACK_BASE_MODEL):
        raise InvalidInput(f"unknown fallback {message.fallback}", field="fallback", remedy="see Fallback")
    return Order(
        prompt,
        named,
        composition,
        sampling_from_pb(message.sampling),
        may_fall_back=message.fallback == gateway_pb2.FALLBACK_BASE_MODEL,
    )


def _named_from_pb(index: int, message: gateway_pb2.WeightedAdapter) -> NamedAdapter:
    field = f"adapters[{index}]"
    named = NamedAdapter(
        access.named(message.adapter, field=f"{field}.adapter"),
        message.weight if message.HasField("weight") else 1.0,
        message.scale if message.HasField("scale") else 1.0,
    )
    for part, value in (("weight", named.weight), ("scale", named.scale)):
        check_number(f"adapters.{part}", value, at=f"{field}.{part}")
    return named


def k_from_pb(k: int, default: Composition) -> int:
    """Adapters that a Route request asks for. Raises InvalidInput when there are too many."""
    check_number("composition.k", k, at="k")
    return k or default.k


def routed_to_pb(choice: Choice) -> gateway_pb2.RoutedAdapter:
    """One adapter of a routing."""
    return gateway_pb2.RoutedAdapter(adapter=ref_to_pb(choice.ref), similarity=choice.similarity)


def event_to_pb(event: Routing | Piece | Usage, *, request_id: str, base_model: str) -> gateway_pb2.GenerateEvent:
    """One message of a Generate stream."""
    if isinstance(event, Piece):
        chunk = common_pb2.TokenChunk(text=event.text, token_ids=event.token_ids, logprobs=event.logprobs)
        return gateway_pb2.GenerateEvent(chunk=chunk)
    if isinstance(event, Usage):
        return gateway_pb2.GenerateEvent(usage=_usage_to_pb(event))
    return gateway_pb2.GenerateEvent(
        routing=gateway_pb2.RoutingReport(
            request_id=request_id,
            base_model=base_model,
            adapters=[routed_to_pb(choice) for choice in event.choices],
            composition=composition_to_pb(event.composition),
            fallback=event.has_fallen_back,
            embed_s=event.embed_s,
            search_s=event.search_s,
            doubt=event.doubt,
        )
    )


def _usage_to_pb(usage: Usage) -> gateway_pb2.UsageReport:
    outcome = usage.outcome
    return gateway_pb2.UsageReport(
        finish_reason=_FINISH_OUT[outcome.finish_reason],
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        adapters=[
            gateway_pb2.AdapterUsage(
                adapter=ref_to_pb(choice.ref),
                similarity=choice.similarity,
                mean_weight=expert.mean_weight,
                layer_weights=expert.layer_weights,
            )
            for choice, expert in zip(usage.routing.choices, outcome.experts, strict=True)
        ],
        queue_s=outcome.queue_s,
        first_token_s=usage.first_token_s,
        total_s=usage.total_s,
        max_batch=outcome.max_batch,
        max_unique_adapters=outcome.max_unique_adapters,
    )


def piece_from_pb(message: common_pb2.TokenChunk) -> Piece:
    """A piece of the answer."""
    return Piece(message.text, tuple(message.token_ids), tuple(message.logprobs))


def outcome_from_pb(message: executor_pb2.ExecuteDone) -> Outcome:
    """The end of a sequence."""
    return Outcome(
        _FINISH.get(message.finish_reason, FinishReason.STOP),
        message.prompt_tokens,
        message.completion_tokens,
        tuple(ExpertUsage(expert.mean_weight, tuple(expert.layer_weights)) for expert in message.experts),
        message.queue_s,
        message.max_batch,
        message.max_unique_adapters,
    )


def record_from_pb(message: adapters_pb2.AdapterRecord) -> Record:
    """One stored version."""
    report = message.report
    return Record(
        ref_from_pb(message.adapter),
        message.base_model,
        message.state == adapters_pb2.ADAPTER_STATE_LIVE,
        message.is_public,
        Report(
            tuple(report.modules),
            report.rank,
            report.bytes,
            report.norm,
            report.num_samples,
            report.relative_norm if report.HasField("relative_norm") else None,
        ),
        tuple(message.samples),
        message.created_at.ToDatetime(UTC),
        message.source,
    )


def record_to_pb(record: Record) -> adapters_pb2.AdapterRecord:
    """The same, for the wire."""
    state = adapters_pb2.ADAPTER_STATE_LIVE if record.is_live else adapters_pb2.ADAPTER_STATE_STAGED
    message = adapters_pb2.AdapterRecord(
        adapter=ref_to_pb(record.ref),
        base_model=record.base_model,
        state=state,
        is_public=record.is_public,
        report=adapters_pb2.AdmissionReport(
            modules=record.report.modules,
            rank=record.report.rank,
            bytes=record.report.num_bytes,
            norm=record.report.norm,
            num_samples=record.report.num_samples,
            relative_norm=record.report.relative_norm,
        ),
        samples=record.samples,
        source=record.source,
    )
    message.created_at.FromDatetime(record.created_at)
    return message


def describe_to_pb(
    statuses: list[executor_pb2.GetStatusResponse], *, version: str, base_model: str, composition: Composition
) -> gateway_pb2.DescribeResponse:
    """The load of all executor replicas together."""
    steps = [status.fullest_step for status in statuses]
    return gateway_pb2.DescribeResponse(
        version=version,
        base_model=base_model,
        default_composition=composition_to_pb(composition),
        running=sum(status.running for status in statuses),
        waiting=sum(status.waiting for status in statuses),
        num_slots=sum(status.num_slots for status in statuses),
        resident_adapters=len({digest for status in statuses for digest in status.resident_digests}),
        fullest_step=max(steps, key=lambda step: (len(step.digests), step.b), default=None),
    )
