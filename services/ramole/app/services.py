"""The five services, each described once: what starts, finds, places or scales them is made from this table."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from ramole.app.shares import SHARED, narrowed
from ramole.app.tracing import tracing_of
from ramole.core.errors import WrongState
from ramole.core.settings import ResourceSettings, ServiceSettings, Settings
from ramole.gateway.identity import EdgeIdentity
from ramole.transport.peers import Peers
from ramole.transport.server import GrpcServer
from ramole.transport.tls import ServerTls
from ramole.transport.trust import Trust


class Replicas(Enum):
    """How many of a service may run at once."""

    ONE_WRITER = "one"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class Scaling:
    """How far a service scales.

    Attributes:
        why: the reason, for whoever asks for more replicas.
        remedy: what to do instead.
    """

    replicas: Replicas
    why: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One service.

    Attributes:
        name: also of its section of the settings, of its application and deployment on Ray, and of its metrics.
        factory: ``module:Class`` of the `Service`; heavy, and so imported only in the process that runs it. Takes the
            settings and, if `needs_peers`, the `Peers`.
        scaling: under these settings.
        reads: paths of settings outside of its section and of what all share, such as ``executor.slot_rank``. It gets
            no others: see `shares`.
        needs_peers: whether it calls the other services.
        is_public: whether it is the edge: what its callers say of themselves is not believed.
        default_timeout_s: deadline of calls whose client set none; None = no limit.
        needs_gpu: whether a replica needs a GPU.
        request_router: ``module:Class`` that ranks its replicas on Ray; '' = Serve's own.
    """

    name: str
    factory: str
    scaling: Callable[[Settings], Scaling]
    reads: tuple[str, ...] = ()
    needs_peers: bool = False
    is_public: bool = False
    default_timeout_s: Callable[[Settings], float | None] = lambda _: None
    needs_gpu: Callable[[Settings], bool] = lambda _: False
    request_router: str = ""

    def section(self, settings: Settings) -> ServiceSettings:
        """Its part of the settings."""
        section: ServiceSettings = getattr(settings, self.name)
        return section

    @property
    def all_reads(self) -> tuple[str, ...]:
        """Paths of all settings that it gets."""
        return (*SHARED, self.name, *self.reads)

    def max_surge_percent(self, settings: Settings) -> int:
        """How many more replicas than usual an update may run, so that an old one ends once a new one serves.

        By itself only where a second one needs nothing that there may be one of: no GPU, port or right to write.
        """
        asked = self.section(settings).max_surge_percent
        if asked is not None:
            return asked
        is_bound = self.scaling(settings).replicas is Replicas.ONE_WRITER or self.fixed_ports(settings)
        return 0 if is_bound or self.resources(settings).num_gpus else 100

    def resources(self, settings: Settings) -> ResourceSettings:
        """What Ray sets aside for each replica, with a number of GPUs."""
        resources = self.section(settings).resources
        if resources.num_gpus is None:
            return resources.model_copy(update={"num_gpus": float(self.needs_gpu(settings))})
        return resources

    def fixed_ports(self, settings: Settings) -> dict[str, int]:
        """The ports that one replica of each machine can listen on, by their settings."""
        ports = {f"{self.name}.server.port": self.section(settings).server.port}
        if self.is_public:
            ports["gateway.http.port"] = settings.gateway.http.port or 0
        return {field: port for field, port in ports.items() if port}

    def server(self, settings: Settings, peers: Callable[[], Peers], trust: Trust) -> GrpcServer:
        """Its server, not yet started. Imports the service.

        Args:
            settings: resolved.
            peers: gives the other services; asked only if it needs them.
            trust: of the system; behind the edge nobody else is listened to.
        """
        module, _, name = self.factory.partition(":")
        make: Callable[..., Any] = getattr(importlib.import_module(module), name)
        settings = narrowed(settings, self.all_reads)
        service = make(settings, peers()) if self.needs_peers else make(settings)
        server, timeout_s = self.section(settings).server, self.default_timeout_s(settings)
        tracing = tracing_of(settings.tracing, self.name, is_edge=self.is_public)
        if not self.is_public:
            return GrpcServer(
                service,
                server,
                default_timeout_s=timeout_s,
                identify=trust.identify,
                tls=trust.server_tls,
                has_reflection=False,
                tracing=tracing,
            )
        edge = EdgeIdentity(settings)
        return GrpcServer(
            service,
            server,
            default_timeout_s=timeout_s,
            identify=edge,
            tls=ServerTls(settings.gateway.tls) if settings.gateway.tls.is_on else None,
            has_reflection=settings.gateway.shows_itself(is_open=edge.is_open),
            tracing=tracing,
        )


def _store_scaling(_: Settings) -> Scaling:
    return Scaling(
        Replicas.ONE_WRITER,
        "the store has one writer, which owns its folder and numbers its versions",
        "leave it at 1; what many executors read comes from their own disks and memory",
    )


def _index_scaling(settings: Settings) -> Scaling:
    if "://" in settings.retrieval.uri:
        return Scaling(Replicas.MANY, "the Milvus server orders what its clients write")
    return Scaling(
        Replicas.ONE_WRITER,
        "an index in a local folder (Milvus Lite) is open in one process only",
        "leave it at 1, or set retrieval.uri to a Milvus server",
    )


def _many(why: str) -> Callable[[Settings], Scaling]:
    return lambda _: Scaling(Replicas.MANY, why)


_IN_ORDER = (
    ServiceSpec(
        name="adapters",
        factory="ramole.adapters.servicer:AdaptersService",
        scaling=_store_scaling,
        reads=("cache", "executor.slot_rank"),
    ),
    ServiceSpec(
        name="embedding",
        factory="ramole.embedding.servicer:EmbeddingService",
        needs_peers=True,
        reads=("executor.scaling",),  # whether there may be no executor to read states
        scaling=_many("an encoder keeps nothing between two calls"),
    ),
    ServiceSpec(name="retrieval", factory="ramole.retrieval.servicer:RetrievalService", scaling=_index_scaling),
    ServiceSpec(
        name="executor",
        factory="ramole.executor.servicer:ExecutorService",
        needs_peers=True,
        reads=("cache", "gateway.tenant_limits", "adapters.tenant_quotas"),  # the last two: tenants that metrics name
        scaling=_many("each has an engine and adapters of its own"),
        needs_gpu=lambda settings: settings.executor.device.startswith("cuda"),
        request_router="ramole.transport.affinity_router:AdapterAffinityRouter",
    ),
    ServiceSpec(
        name="gateway",
        factory="ramole.gateway.servicer:GatewayService",
        needs_peers=True,
        reads=(
            *("adapters.max_upload_bytes", "adapters.max_rank", "adapters.max_samples", "retrieval.timeout_s"),
            "executor.router",  # whether the default preset has one, see `resolution`
            *("executor.max_len", "executor.max_waiting", "executor.scaling"),
            *("executor.tenant_weights", "adapters.tenant_quotas"),  # tenants that metrics name
        ),
        is_public=True,
        scaling=_many("what it decides is in the store and the index"),
        default_timeout_s=lambda settings: settings.gateway.deadline_s,
    ),
)

SERVICES = {spec.name: spec for spec in _IN_ORDER}
"""By name, in the order of their start: each needs those before it at most."""

PUBLIC = next(spec.name for spec in _IN_ORDER if spec.is_public)
"""The one whose address is that of the system."""


def check_replicas(settings: Settings, place: Literal["process", "machine", "cluster"]) -> None:
    """Raises WrongState if a service is asked for more often than it can run.

    Args:
        settings: resolved.
        place: where the system is to run. One process holds one of each. On one machine a port is listened on once; in
            a cluster, of which nothing is known here, Ray puts replicas with a port of their own on different machines.
    """
    for spec in SERVICES.values():
        section, scaling = spec.section(settings), spec.scaling(settings)
        if spec.needs_gpu(settings) and spec.resources(settings).num_gpus == 0:
            raise WrongState(
                "Ray hides the GPUs of its node from a replica that asks for none",
                field=f"{spec.name}.resources.num_gpus",
                remedy="leave it out, or give the part of a GPU that a replica takes",
            )
        if section.max_surge_percent and scaling.replicas is Replicas.ONE_WRITER:
            raise WrongState(
                f"an update would run two replicas of a service that can have one only: {scaling.why}",
                field=f"{spec.name}.max_surge_percent",
                remedy="leave it out",
            )
        most = section.bounds[1]
        if section.scaling is None:
            field, asked, remedy = f"{spec.name}.replicas", f"{most} replicas", "leave it at 1"
        else:
            field, asked, remedy = f"{spec.name}.scaling", f"bounds of up to {most} replicas", "remove it"
        if most == 1 and section.scaling is None:
            continue
        if scaling.replicas is Replicas.ONE_WRITER:
            raise WrongState(
                f"{asked} of a service that can have one only: {scaling.why}",
                field=field,
                remedy=scaling.remedy if section.scaling is None else remedy,
            )
        if place == "process":
            raise WrongState(
                f"{asked}, but one process runs one of each service",
                field=field,
                remedy=f"{remedy}, or serve on Ray, without --local",
            )
        taken = spec.fixed_ports(settings)
        if place == "machine" and taken and most > 1:
            port_field, port = next(iter(taken.items()))
            raise WrongState(
                f"{asked} cannot listen on one port of one machine, {port}",
                field=field,
                remedy=f"{remedy}, or set {port_field} to 0, any free one",
            )
