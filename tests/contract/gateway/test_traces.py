"""One call, one trace: through either port, over every hop, in memory and without a collector."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator

import grpc
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ramole.core.settings import HttpSettings, ServerSettings, TracingSettings
from ramole.core.trace import Tracing
from ramole.gateway.servicer import GatewayService
from ramole.observability.logs import ACCESS_LOGGER, ROOT_LOGGER, setup_logging
from ramole.observability.tracing import OpenTelemetry
from ramole.transport.identity import seen_principal
from ramole.transport.peers import Peers
from ramole.transport.server import GrpcServer
from ramole.v1 import gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.gateway_world import World

TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = ("traceparent", f"00-{TRACE_ID}-{CALLER}-01")
SECRET = "a prompt that nobody but its model shall read"


class TracedWorld(World):
    """Every service with its spans in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._exporters: dict[str, InMemorySpanExporter] = {}
        gateway = self.settings.gateway.model_copy(update={"http": HttpSettings(port=0)})
        self.settings = self.settings.model_copy(update={"gateway": gateway})

    def tracing_of(self, service: str) -> Tracing:
        exporter = self._exporters[service] = InMemorySpanExporter()
        settings = TracingSettings(sampling_ratio=0.0)
        return OpenTelemetry(service, "1", exporter, settings, is_edge=service == "gateway")

    def serve(self, peers: Peers) -> GrpcServer:
        return GrpcServer(
            GatewayService(self.settings, peers),
            ServerSettings(),
            default_timeout_s=30.0,
            identify=seen_principal,
            tracing=self.tracing_of("gateway"),
        )

    async def spans(self) -> list[ReadableSpan]:
        """All of them; the world has stopped then."""
        await self.stop()
        return [span for each in self._exporters.values() for span in each.get_finished_spans()]


@pytest.fixture
async def world() -> AsyncIterator[TracedWorld]:
    world = TracedWorld()
    world.give("a", "b")
    await world.start_neighbours()
    await world.start_gateway()
    yield world
    await world.stop()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What all services write."""
    loggers = [logging.getLogger(ROOT_LOGGER), logging.getLogger(ACCESS_LOGGER)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    stream = io.StringIO()
    setup_logging(stream)
    yield stream
    for logger, handlers, level, propagates in before:
        logger.handlers[:], logger.propagate = handlers, propagates
        logger.setLevel(level)


async def by_grpc(world: TracedWorld, *metadata: tuple[str, str]) -> None:
    async with grpc.aio.insecure_channel(world.servers["gateway"].address) as channel:
        request = gateway_pb2.GenerateRequest(prompt=SECRET)
        async for _ in GatewayStub(channel).Generate(request, metadata=metadata):
            pass


async def by_http(world: TracedWorld, *metadata: tuple[str, str]) -> None:
    async with httpx.AsyncClient(base_url=f"http://{world.servers['gateway'].http_address}") as http:
        answer = await http.post("/v1/completions", json={"model": "auto", "prompt": SECRET}, headers=dict(metadata))
        answer.raise_for_status()


DOORS = {"grpc": (by_grpc, "ramole.v1.Gateway/Generate"), "http": (by_http, "POST /v1/completions")}


def path_of(span: ReadableSpan, spans: dict[int, ReadableSpan]) -> str:
    """The names from the root to a span, with the services that they are of."""
    name = f"{span.resource.attributes['service.name'].removeprefix('ramole.')}:{span.name}"  # type: ignore[union-attr]
    above = spans.get(span.parent.span_id) if span.parent else None
    return f"{path_of(above, spans)} > {name}" if above else name


@pytest.mark.parametrize("door", DOORS)
async def test_one_trace_holds_what_every_service_did(world: TracedWorld, door: str) -> None:
    call, root = DOORS[door]
    await call(world, CONTEXT, ("x-request-id", "r-7"))
    found = await world.spans()
    spans = {span.context.span_id: span for span in found}
    assert {f"{span.context.trace_id:032x}" for span in found} == {TRACE_ID}
    top = f"gateway:{root}"
    assert sorted(path_of(span, spans) for span in found) == sorted(
        [
            top,
            f"{top} > gateway:admission",
            f"{top} > gateway:embed",
            f"{top} > gateway:embed > gateway:pick",
            f"{top} > gateway:embed > gateway:ramole.v1.Embedding/Embed",
            f"{top} > gateway:embed > gateway:ramole.v1.Embedding/Embed > embedding:ramole.v1.Embedding/Embed",
            f"{top} > gateway:search",
            f"{top} > gateway:search > gateway:pick",
            f"{top} > gateway:search > gateway:ramole.v1.Retrieval/Search",
            f"{top} > gateway:search > gateway:ramole.v1.Retrieval/Search > retrieval:ramole.v1.Retrieval/Search",
            f"{top} > gateway:pick",
            f"{top} > gateway:ramole.v1.Executor/Execute",
            f"{top} > gateway:ramole.v1.Executor/Execute > executor:ramole.v1.Executor/Execute",
        ]
    )
    [first] = [span for span in found if span.parent is None or span.parent.span_id not in spans]
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == CALLER
    for span in found:  # what is inside of another is so in time as well, within a process
        above = spans.get(span.parent.span_id) if span.parent else None
        if above is not None and above.resource == span.resource:
            assert above.start_time <= span.start_time <= span.end_time <= above.end_time  # type: ignore[operator]
    told = json.dumps([[span.name, *dict(span.attributes or {}).items()] for span in found])
    assert SECRET not in told
    assert "authorization" not in told
    assert (first.attributes or {})["ramole.request_id"] == "r-7"


@pytest.mark.parametrize("door", DOORS)
async def test_an_error_is_in_the_span_of_whoever_met_it(world: TracedWorld, door: str) -> None:
    world.executor.failures["Execute"] = [RuntimeError(SECRET)]
    with pytest.raises((grpc.aio.AioRpcError, httpx.HTTPStatusError)):
        await DOORS[door][0](world, CONTEXT)
    found = await world.spans()
    bad = {(span.resource.attributes["service.name"], span.name) for span in found if not span.status.is_unset}
    execute = "ramole.v1.Executor/Execute"
    assert bad == {
        ("ramole.executor", execute),
        ("ramole.gateway", execute),
        ("ramole.gateway", DOORS[door][1]),
    }
    assert all(SECRET not in str(dict(span.attributes or {})) and not span.events for span in found)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("flags", ["01", "00", None])
async def test_the_log_of_every_service_names_the_trace(
    world: TracedWorld, log: io.StringIO, door: str, flags: str | None
) -> None:
    given = [] if flags is None else [("traceparent", f"00-{TRACE_ID}-{CALLER}-{flags}")]
    await DOORS[door][0](world, *given, ("x-request-id", "r-7"))
    assert len(await world.spans()) == (13 if flags == "01" else 0)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    calls = {line["method"]: line for line in lines if line["message"] == "call"}
    assert {line["request_id"] for line in calls.values()} == {"r-7"}
    assert {line.get("trace_id") for line in calls.values()} == {None if flags is None else TRACE_ID}
    assert len(calls) == 4
