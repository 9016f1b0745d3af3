"""A collector of traces: OTLP over gRPC, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Span:
    """A span as tests look at it; ids are hexadecimal digits, `parent` is '' for none."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(hash=False)
    is_error: bool = False


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what comes; `metadata` is that of the last call."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metadata: dict[str, str | bytes] = {}

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.metadata = dict(context.invocation_metadata())
        for each in request.resource_spans:
            service = _values(each.resource.attributes)["service.name"]
            for scope in each.scope_spans:
                self.spans += [_span(service, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _span(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code == span.status.STATUS_CODE_ERROR,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def otlp_receiver(address: str = "127.0.0.1:0") -> Iterator[tuple[OtlpReceiver, str]]:
    """A receiver and its endpoint."""
    server = grpc.server(ThreadPoolExecutor(2))
    receiver = OtlpReceiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield receiver, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)
