"""Protobuf <-> values of the client."""

from __future__ import annotations

from datetime import UTC

from ramole.client.values import (
    AdapterRecord,
    AdapterUsage,
    Description,
    Route,
    RoutedAdapter,
    Routing,
    StepSnapshot,
    Usage,
    Version,
)
from ramole.core.answer import Chunk
from ramole.core.composition import Composition
from ramole.core.errors import Corrupt
from ramole.transport.values import composition_from_pb, finish_from_pb, ref_from_pb
from ramole.v1 import gateway_pb2, records_pb2


def event_from_pb(message: gateway_pb2.GenerateResponse) -> Routing | Chunk | Usage:
    """One message of a Generate stream."""
    if message.HasField("chunk"):
        chunk = message.chunk
        return Chunk(chunk.text, tuple(chunk.token_ids), tuple(chunk.logprobs))
    if message.HasField("routing"):
        return _routing_from_pb(message.routing)
    if message.HasField("usage"):
        return _usage_from_pb(message.usage)
    raise Corrupt("the server sent an event that this client does not know", remedy="update the client")


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
    )


def _usage_from_pb(message: gateway_pb2.UsageReport) -> Usage:
    return Usage(
        finish_from_pb(message.finish_reason),
        message.prompt_tokens,
        message.completion_tokens,
        tuple(
            AdapterUsage(
                ref_from_pb(adapter.adapter), adapter.similarity, adapter.mean_weight, tuple(adapter.layer_weights)
            )
            for adapter in message.adapters
        ),
        message.queue_s,
        message.first_token_s,
        message.total_s,
        message.max_batch,
        message.max_unique_adapters,
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
    )
