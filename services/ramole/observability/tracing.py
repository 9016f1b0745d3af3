"""Traces by OpenTelemetry: which calls are traced, what their spans hold, and their way to a collector.

Imported only where tracing is on: nothing else here knows the library. The gateway decides for a call, and the services
behind it do as the gateway says, which the `traceparent` of W3C carries from hop to hop.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ramole.core.errors import WrongState
from ramole.core.settings import TracingSettings
from ramole.core.trace import NO_TRACE, Kind, Trace, Tracing, Value

PREFIX = "ramole."
"""Of the names of our attributes."""

TRACEPARENT = "traceparent"

# Memory of a service whose collector is away: some 2 KiB a span. The oldest spans go first.
_MAX_SPANS = 2048
_MAX_ATTRIBUTES = 32
_BATCH = 256
_PERIOD_S = 2.0
_EXPORT_S = 3.0
_WARN_S = 60.0

_KINDS = {"internal": otel.SpanKind.INTERNAL, "server": otel.SpanKind.SERVER, "client": otel.SpanKind.CLIENT}

# Of a server these are its own fault, everything else its client's; OpenTelemetry's conventions for gRPC say which.
_OWN_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

_w3c = TraceContextTextMapPropagator()
_log = logging.getLogger(__name__)


class OpenTelemetry(Tracing):
    """The spans of one service.

    Args:
        service: its name: ``ramole.gateway`` is the ``service.name`` of the gateway's spans.
        version: of ramole.
        exporter: takes the finished spans, on a thread of its own.
        is_edge: whether callers are clients. Their wish to be traced is one, and granted within a limit; what other
            services say is done.
        settings: how many calls are traced.
        closing: called first at the end.
        draw: gives numbers from 0 to 1. It decides, and not the trace id, which a client may choose.
    """

    def __init__(
        self,
        service: str,
        version: str,
        exporter: SpanExporter,
        settings: TracingSettings,
        *,
        is_edge: bool,
        closing: Callable[[], None] = lambda: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        names = {"namespace": "ramole", "name": PREFIX + service, "version": version, "instance.id": uuid4().hex}
        # The environment has no say: our settings name what is ours.
        processor = BatchSpanProcessor(
            exporter,
            max_queue_size=_MAX_SPANS,
            schedule_delay_millis=1000 * _PERIOD_S,
            max_export_batch_size=_BATCH,
            export_timeout_millis=1000 * _EXPORT_S,
        )
        # Whether a call is traced is decided here, before the library hears of it.
        resource = Resource({f"service.{key}": value for key, value in names.items()})
        self._provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, span_limits=SpanLimits(max_attributes=_MAX_ATTRIBUTES)
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("ramole", version)
        self._is_edge = is_edge
        self._ratio = settings.sampling_ratio
        self._wishes = RateLimitItemPerMinute(settings.wishes_per_minute) if settings.wishes_per_minute else None
        self._granted = FixedWindowRateLimiter(MemoryStorage())
        self._closing = closing
        self._draw = draw

    def begin(self, method: str, metadata: Mapping[str, str], *, tenant: str, request_id: str, since_s: float) -> Trace:
        """See `Tracing.begin`."""
        caller = otel.INVALID_SPAN_CONTEXT
        if TRACEPARENT in metadata:
            caller = otel.get_current_span(_w3c.extract(metadata)).get_span_context()
        if not self._is_traced(caller, tenant):
            return _Passing(caller) if caller.is_valid else NO_TRACE
        span = _Span(self._tracer, otel.NonRecordingSpan(caller), time.time_ns() - time.monotonic_ns())
        attributes = {"tenant": tenant, "request_id": request_id}
        return span.begin(method, attributes, kind="server", since_s=since_s)

    def close(self) -> None:
        """See `Tracing.close`."""
        self._closing()
        self._provider.shutdown()

    def _is_traced(self, caller: otel.SpanContext, tenant: str) -> bool:
        if not self._is_edge:
            return caller.trace_flags.sampled
        if caller.trace_flags.sampled and self._wishes is not None and self._granted.hit(self._wishes, tenant):
            return True
        return self._draw() < self._ratio


class _Passing(Trace):
    """A call that its client traces and we do not: the log and the next service hear of it."""

    def __init__(self, caller: otel.SpanContext) -> None:
        flags = otel.TraceFlags(otel.TraceFlags.DEFAULT)
        passed = otel.SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags)
        self.trace_id = otel.format_trace_id(caller.trace_id)
        self._span = otel.NonRecordingSpan(passed)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return _metadata(self._span)


class _Span(Trace):
    is_kept = True

    def __init__(
        self, tracer: otel.Tracer, span: otel.Span, epoch_ns: int, kind: Kind = "internal", began_s: float = 0.0
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns  # one for all spans of a call, so that they fit into each other
        self._kind = kind
        self.began_s = began_s
        self.trace_id = otel.format_trace_id(span.get_span_context().trace_id)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return _metadata(self._span)

    def begin(
        self,
        name: str,
        attributes: Mapping[str, Value] | None = None,
        *,
        kind: Kind = "internal",
        since_s: float | None = None,
    ) -> Trace:
        since_s = time.monotonic() if since_s is None else since_s
        told = {PREFIX + key: value for key, value in (attributes or {}).items()}
        if kind != "internal":
            told |= _called(name)
        span = self._tracer.start_span(
            name.removeprefix("/"),
            otel.set_span_in_context(self._span),
            _KINDS[kind],
            told,
            start_time=self._ns(since_s),
        )
        return _Span(self._tracer, span, self._epoch_ns, kind, since_s)

    def end(self, code: str = "OK", at_s: float | None = None) -> None:
        if self._kind != "internal" or code != "OK":
            self._span.set_attribute(PREFIX + "code", code)
        if code != "OK" and (self._kind != "server" or code in _OWN_FAULTS):
            self._span.set_status(otel.StatusCode.ERROR)
        self._span.end(self._ns(time.monotonic() if at_s is None else at_s))

    def _ns(self, at_s: float) -> int:
        return int(at_s * 1e9) + self._epoch_ns


def _metadata(span: otel.Span) -> tuple[tuple[str, str], ...]:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, otel.set_span_in_context(span))
    return tuple(carrier.items())


def _called(name: str) -> dict[str, Value]:
    """What OpenTelemetry's conventions call the parts of a method's name."""
    if not name.startswith("/"):
        verb, _, route = name.partition(" ")
        return {"http.request.method": verb, "http.route": route} if route else {}
    service, _, method = name[1:].partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


class OtlpExporter(SpanExporter):
    """Sends spans to a collector, by OTLP over gRPC. What it does not take within seconds is given up.

    The library's own exporter would try for longer than a server may take to stop, write its troubles past our log,
    and take half of its settings from the environment.

    Raises:
        WrongState: the certificate cannot be read.
    """

    def __init__(self, settings: TracingSettings) -> None:
        parts = urlsplit(settings.otlp_endpoint)
        if parts.scheme == "https":
            self._channel = grpc.secure_channel(parts.netloc, _credentials(settings.ca_file))
        else:
            self._channel = grpc.insecure_channel(parts.netloc)
        self._send = TraceServiceStub(self._channel).Export  # type: ignore[no-untyped-call]
        self._headers = tuple((key.lower(), value) for key, value in settings.headers.items())
        self._address = parts.netloc
        self._num_lost = 0
        self._warned_s = float("-inf")
        self._has_failed = self._is_closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by the thread of the processor, one batch after the other."""
        if self._is_closing and self._has_failed:
            return SpanExportResult.FAILURE
        try:
            # One that starts or comes back is waited for, but not by a server that stops.
            self._send(
                encode_spans(spans), timeout=_EXPORT_S, metadata=self._headers, wait_for_ready=not self._is_closing
            )
        except grpc.RpcError as error:
            self._has_failed = True
            self._lost(len(spans), error)
            return SpanExportResult.FAILURE
        self._has_failed = False
        return SpanExportResult.SUCCESS

    def hurry(self) -> None:
        """From now on a collector that is away is not tried again."""
        self._is_closing = True

    def shutdown(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _lost(self, num_spans: int, error: grpc.RpcError) -> None:
        self._num_lost += num_spans
        now = time.monotonic()
        if now - self._warned_s >= _WARN_S:
            fields = {"address": self._address, "code": str(error.code()), "spans": self._num_lost}
            _log.warning("the collector took no spans; they are lost", extra={"fields": fields})
            self._warned_s, self._num_lost = now, 0


def _credentials(ca_file: str) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(Path(ca_file).read_bytes() if ca_file else None)
    except OSError as error:
        raise WrongState(
            f"{ca_file} cannot be read: {error.strerror}", field="tracing.ca_file", remedy="name a PEM file"
        ) from error
