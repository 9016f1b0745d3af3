"""Protobuf <-> values of the client."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from ramole.client.values import (
    AdapterRecord,
    AdapterUsage,
    Caller,
    Completion,
    Description,
    LeftOut,
    Limits,
    PartUsage,
    Route,
    RoutedAdapter,
    Routing,
    ServiceStatus,
    StepSnapshot,
    TierStatus,
    Usage,
    Version,
)
from ramole.core.answer import Chunk, TopTokens
from ramole.core.composition import Composition
from ramole.core.errors import Corrupt, RamoleError
from ramole.transport.failures import failure_from_pb
from ramole.transport.values import (
    composition_from_pb,
    finish_from_pb,
    names_of,
    part_end_from_pb,
    ref_from_pb,
)
from ramole.v1 import common_pb2, gateway_pb2, records_pb2


def event_from_pb(
    message: gateway_pb2.GenerateResponse | gateway_pb2.GenerateBatchResponse,
) -> Routing | Chunk | Usage:
    """One message of a Generate stream."""
    if message.HasField("chunk"):
        return _chunk_from_pb(message.chunk)
    if message.HasField("routing"):
        return _routing_from_pb(message.routing)
    if message.HasField("usage"):
        return _usage_from_pb(message.usage)
    raise Corrupt("the server sent an event that this client does not know", remedy="update the client")


def batch_event_from_pb(message: gateway_pb2.GenerateBatchResponse) -> Routing | Chunk | Usage | RamoleError:
    """One message of a GenerateBatch stream; of a request that failed, the error as a value."""
    return failure_from_pb(message.failure) if message.HasField("failure") else event_from_pb(message)


def completion_from_pb(message: gateway_pb2.CompleteResponse) -> Completion:
    """A whole answer."""
    answer = _chunk_from_pb(message.answer)
    return Completion(
        answer.text,
        _routing_from_pb(message.routing),
        _usage_from_pb(message.usage),
        answer.token_ids,
        answer.logprobs,
        answer.token_bytes,
        answer.top,
        tuple(map(_routing_from_pb, message.later_routings)),
    )


def _chunk_from_pb(message: common_pb2.TokenChunk) -> Chunk:
    return Chunk(
        message.text,
        tuple(message.token_ids),
        tuple(message.logprobs),
        tuple(message.token_bytes),
        tuple(
            TopTokens(tuple(top.token_ids), tuple(top.logprobs), tuple(top.token_bytes)) for top in message.top_tokens
        ),
    )


def _routing_from_pb(message: gateway_pb2.RoutingReport) -> Routing:
    return Routing(
        message.request_id,
        message.base_model,
        tuple(routed_from_pb(adapter) for adapter in message.adapters),
        composition_from_pb(message.composition, Composition()),
        message.fallback,
        message.embed_s,
        message.search_s,
        message.doubt if message.HasField("doubt") else None,
        tuple(LeftOut(ref_from_pb(each.adapter), each.reason) for each in message.left_out),
        message.part,
    )


def _usage_from_pb(message: gateway_pb2.UsageReport) -> Usage:
    return Usage(
        finish_from_pb(message.finish_reason),
        message.prompt_tokens,
        message.completion_tokens,
        _used_from_pb(message.adapters),
        message.queue_s,
        message.first_token_s,
        message.total_s,
        message.max_batch,
        message.max_unique_adapters,
        message.prefill_s,
        message.decode_s,
        tuple(
            PartUsage(
                part.completion_tokens,
                part.characters,
                _used_from_pb(part.adapters),
                part.queue_s,
                part.prefill_s,
                part.decode_s,
                part_end_from_pb(part.end),
            )
            for part in message.parts
        ),
    )


def _used_from_pb(messages: Iterable[gateway_pb2.AdapterUsage]) -> tuple[AdapterUsage, ...]:
    return tuple(
        AdapterUsage(
            ref_from_pb(adapter.adapter),
            adapter.similarity,
            adapter.mean_weight,
            tuple(adapter.layer_weights),
            names_of(common_pb2.CacheTier.DESCRIPTOR).get(adapter.tier, ""),
        )
        for adapter in messages
    )


def routed_from_pb(message: gateway_pb2.RoutedAdapter) -> RoutedAdapter:
    """One adapter of a routing."""
    return RoutedAdapter(ref_from_pb(message.adapter), message.similarity)


def route_from_pb(message: gateway_pb2.RouteResponse) -> Route:
    """What a prompt would get."""
    return Route(
        tuple(routed_from_pb(adapter) for adapter in message.adapters),
        message.embed_s,
        message.search_s,
        message.doubt if message.HasField("doubt") else None,
    )


def record_from_pb(message: records_pb2.AdapterRecord) -> AdapterRecord:
    """One stored version."""
    report = message.report
    return AdapterRecord(
        ref_from_pb(message.adapter),
        message.base_model,
        message.is_public,
        tuple(report.modules),
        report.rank,
        report.bytes,
        report.norm,
        report.num_samples,
        tuple(message.samples),
        message.created_at.ToDatetime(UTC),
        message.source,
        report.relative_norm if report.HasField("relative_norm") else None,
        tuple(message.tags),
    )


def version_from_pb(message: records_pb2.HistoryEntry) -> Version:
    """One line of a history."""
    return Version(
        ref_from_pb(message.adapter),
        message.created_at.ToDatetime(UTC),
        message.source,
        message.removed_at.ToDatetime(UTC) if message.HasField("removed_at") else None,
        message.removal,
        message.comment,
    )


def description_from_pb(message: gateway_pb2.DescribeResponse) -> Description:
    """The served model and its load."""
    step = message.fullest_step
    width = len(step.digests)
    rows = tuple(tuple(step.mask[i * width : (i + 1) * width]) for i in range(step.b))
    return Description(
        message.version,
        message.base_model,
        composition_from_pb(message.default_composition, Composition()),
        message.running,
        message.waiting,
        message.num_slots,
        message.resident_adapters,
        StepSnapshot(tuple(step.digests), rows, step.tokens),
        _limits_from_pb(message.limits),
        message.router,
        message.encoder_id,
        message.has_chat_template,
        Caller(message.caller.tenant, message.caller.name, tuple(message.caller.roles)),
        message.time.ToDatetime(UTC) if message.HasField("time") else None,
        message.max_running,
        message.ended,
        message.tokens_out,
        tuple(
            TierStatus(
                names_of(common_pb2.CacheTier.DESCRIPTOR).get(each.tier, ""),
                each.adapters,
                each.bytes,
                each.hits,
                each.misses,
            )
            for each in message.tiers
        ),
        tuple(ServiceStatus(each.name, each.replicas, each.serving) for each in message.services),
    )


def _limits_from_pb(message: gateway_pb2.Limits) -> Limits:
    return Limits(
        message.max_prompt_chars,
        message.max_len,
        message.max_waiting,
        message.max_batch_requests,
        message.max_upload_bytes,
        message.max_rank,
        message.max_samples,
    )
