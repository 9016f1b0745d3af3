"""One service on its own gRPC server: health, reflection, limits, and an orderly start and stop."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ramole.core.address import join_address
from ramole.core.errors import RamoleError, Unavailable, WrongState
from ramole.core.settings import ServerSettings
from ramole.core.trace import NoTracing, Tracing
from ramole.observability.metrics import RpcMetrics
from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import CallLimit
from ramole.transport.identity import Identify, told_principal
from ramole.transport.interceptors import ServerInterceptor
from ramole.transport.poller import keep_poller
from ramole.transport.running import LAST_WORD_S
from ramole.transport.service import Service
from ramole.transport.tls import ServerTls

_WATCH_S = 0.3

ACCEPTING = "accepting"
"""A name in health.v1 that is SERVING until the server drains, whatever is missing behind it: a gateway without an
index still answers who names his adapters, and must not be taken out of its load balancer."""

_log = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    # Two servers that share one port would each get half of the calls: a taken port must be an error.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping as they like, many each 10 s or a bit less: a ping costs less than the connection that it saves. Who
    # sends nothing but pings, a hundred of them without pause, is told to calm down and disconnected.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 100),
    # Connections that nobody uses make room for others. Clients open another when they need one.
    ("grpc.max_connection_idle_ms", 15 * 60_000),
    # Of one call's metadata: above the first a call is refused by chance, above the second for sure.
    ("grpc.max_metadata_size", 16 * 2**10),
    ("grpc.absolute_max_metadata_size", 32 * 2**10),
)


class GrpcServer:
    """Runs `service` on a port of its own.

    Args:
        service: what to serve; started and closed by this server.
        settings: host, port, limits.
        default_timeout_s: deadline of calls whose client set none; None = no limit.
        identify: finds out who asks. The default believes what callers say, whoever they are.
        tls: its certificates; None = none.
        has_reflection: whether it tells strangers its methods and messages.
        tracing: of its calls; closed at its end. None = none.

    Attributes:
        registry: the service's metrics and those of its calls.
    """

    def __init__(
        self,
        service: Service,
        settings: ServerSettings,
        *,
        default_timeout_s: float | None = None,
        identify: Identify = told_principal,
        tls: ServerTls | None = None,
        has_reflection: bool = True,
        tracing: Tracing | None = None,
    ) -> None:
        self._service = service
        self._settings = settings
        self._tls = tls
        self._has_reflection = has_reflection
        self._limit = CallLimit(settings)
        self.registry = service.registry
        self._tracing = tracing or NoTracing()
        self._bracket = CallBracket(self._limit, RpcMetrics(self.registry), identify, default_timeout_s, self._tracing)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._stopping: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._why_not = ""

    @property
    def address(self) -> str:
        """``host:port`` as bound; the port is known once `start` has bound it."""
        return join_address(self._settings.host, self._port)

    @property
    def port(self) -> int:
        """The bound port."""
        return self._port

    @property
    def http_address(self) -> str:
        """``host:port`` where the service answers HTTP; '' = it does not."""
        return self._service.http_address

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._settings.host

    @property
    def name(self) -> str:
        """Short name of the service: ``embedding``."""
        return self._service.name

    @property
    def is_serving(self) -> bool:
        """Whether calls are taken."""
        return self._limit.is_open

    def check_health(self) -> None:
        """Raises RamoleError when this server must be replaced: it has stopped, or its service says so."""
        if not self.is_serving:
            raise Unavailable(f"the server of {self.name} has stopped", remedy="start another")
        self._service.check_health()

    @property
    def inflight(self) -> int:
        """Calls that run now."""
        return self._limit.inflight

    def load(self) -> float:
        """Work in progress, in calls; infinite, so that nobody comes here by choice, once the service has failed."""
        try:
            self._service.check_health()
        except RamoleError:
            return math.inf
        return float(self._limit.load)

    def usage(self) -> Mapping[str, float]:
        """What a scaling policy gets to know: the service's own record and its calls in flight."""
        return {**self._service.usage(), "inflight": float(self._limit.load)}

    def routing_stats(self) -> dict[str, object]:
        """What pickers of Ray's get to know: the service's own report and its load."""
        return {**self._service.routing_stats(), "load": self.load()}

    async def start(self) -> None:
        """Binds the port, then starts the service. Health turns SERVING at the very end, once the service is ready.

        Raises:
            WrongState: the port is taken.
            RamoleError: whatever the service's own start raises; nothing is left running then.
        """
        keep_poller()
        kinds = {f"/{self._service.full_name}/{name}": kind for name, kind in self._service.kinds.items()}
        interceptor = ServerInterceptor(self._bracket, self._settings.idle_s, kinds)
        limits = (
            ("grpc.max_receive_message_length", self._service.max_message_bytes),
            # Of one connection. Calls without a request yet, and refused ones, hold no place, but some memory.
            ("grpc.max_concurrent_streams", 2 * self._limit.num_places),
            ("grpc.max_allowed_incoming_connections", self._settings.max_connections),
            ("grpc.server_handshake_timeout_ms", int(1000 * self._settings.idle_s)),
        )
        server = grpc.aio.server(interceptors=[interceptor], options=(*limits, *_OPTIONS))
        self._service.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._has_reflection:
            names = (self._service.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._port = self._bind(server)
        self._server = server
        try:
            await server.start()
            await self._service.start()
            await self._service.open(self._bracket)
        except BaseException:
            await self.stop()
            raise
        self._limit.is_open = True
        shown = await self._judge()
        await self._set_health(shown)
        await self._health.set(ACCEPTING, health_pb2.HealthCheckResponse.SERVING)
        self._watching = asyncio.create_task(self._watch(shown))

    async def stop(self) -> None:
        """Drains: refuses new calls, lets running ones finish within the grace period, breaks off the rest with
        UNAVAILABLE, then closes the service.

        Safe to call more than once and from several tasks; all of them wait for the one drain.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._drain())
        await asyncio.shield(self._stopping)

    async def _drain(self) -> None:
        self._limit.is_open = False
        if self._watching is not None:
            self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        self._service.begin_drain()
        if self._server is not None:
            grace_s = self._settings.grace_s
            # Clients are told at once to open no more calls here. Who only watches our health is not waited for.
            stopping = asyncio.create_task(self._server.stop(grace_s + 2 * LAST_WORD_S))
            await self._bracket.running.end(grace_s)
            await asyncio.gather(self._server.stop(LAST_WORD_S), stopping, self._service.drain(LAST_WORD_S))
        try:
            await self._service.close()
        finally:
            await asyncio.to_thread(self._tracing.close)

    async def _watch(self, shown: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Health tells what the service says of itself, at any time."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now = await self._judge()
            if now != shown:
                await self._set_health(now)
                shown = now

    async def _judge(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        try:
            self.check_health()
            await self._service.check_ready()
        except RamoleError as error:
            if not self._why_not:
                _log.warning("%s is not ready: %s", self.name, error)
            self._why_not = str(error)
            return health_pb2.HealthCheckResponse.NOT_SERVING
        if self._why_not:
            _log.warning("%s is ready again; it was not: %s", self.name, self._why_not)
            self._why_not = ""
        return health_pb2.HealthCheckResponse.SERVING

    def _bind(self, server: grpc.aio.Server) -> int:
        address = join_address(self._settings.host, self._settings.port)
        try:
            if self._tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._tls.grpc_credentials())
        except RuntimeError as error:
            raise WrongState(
                f"cannot listen on {address}: the port is taken or the host is not this machine's",
                field=f"{self.name}.server.port",
                remedy="choose another port, or 0 for any free one",
            ) from error

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", self._service.full_name):
            await self._health.set(name, status)
