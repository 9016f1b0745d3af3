"""Services as Ray Serve applications: one application and one deployment for each, both called as the service is."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import ray.util
from ray import serve
from ray.serve.config import RequestRouterConfig

from ramole.app.logs import log_to
from ramole.app.scratch import MARK
from ramole.app.serve_scaling import autoscaling_config
from ramole.app.services import SERVICES, ServiceSpec
from ramole.app.trust import trust_of
from ramole.core.settings import MetricsSettings, Settings
from ramole.observability.export import Shared
from ramole.transport.peers import Peers
from ramole.transport.picker import ServePicker
from ramole.transport.replica import Replica, deployment_options
from ramole.transport.server import GrpcServer

_ROUTING_STATS_PERIOD_S = 1.0


def application(spec: ServiceSpec, settings: Settings) -> serve.Application:
    """The application of one service.

    Args:
        settings: resolved, and its replicas checked.
    """
    section = spec.section(settings)
    options = deployment_options(spec.name, section.server, has_fixed_port=bool(spec.fixed_ports(settings)))
    if section.scaling is None:
        options["num_replicas"] = section.replicas
    else:
        options["autoscaling_config"] = autoscaling_config(section.scaling)
    options["max_surge_percent"] = spec.max_surge_percent(settings)
    resources = spec.resources(settings)
    options["ray_actor_options"] = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "memory": resources.memory_bytes,
        "resources": resources.custom,
    }
    if spec.request_router:
        options["request_router_config"] = RequestRouterConfig(
            request_router_class=spec.request_router, request_routing_stats_period_s=_ROUTING_STATS_PERIOD_S
        )
    replica = serve.deployment(**options)(Replica)
    return replica.bind(
        partial(_server_of, spec.name, settings),
        ray.util.get_node_ip_address,
        partial(_shared_metrics, settings.metrics),
    )


def _server_of(name: str, settings: Settings) -> GrpcServer:
    """Runs in the replica, a process that belongs to it alone: its log lines go to standard error, which Ray keeps."""
    log_to(sys.stderr, settings)
    trust = trust_of(settings)
    return SERVICES[name].server(settings, lambda: Peers(partial(_picker, settings), trust), trust)


def _picker(settings: Settings, name: str) -> ServePicker:
    """Of a service that may have no replica, prompts wait for the first; nobody else does."""
    scaling = settings.executor.scaling
    if name != SERVICES["executor"].name or scaling is None or scaling.min > 0:
        return ServePicker(name)
    return ServePicker(name, max_wait_s=scaling.patience_s, may_be_none=True)


def _shared_metrics(settings: MetricsSettings, server: GrpcServer) -> Shared:
    """In a folder that goes with the Ray instance, where it is one of ours."""
    scratch = os.environ.get(MARK)
    return Shared(server.name, server.registry, settings, Path(scratch) / "metrics" if scratch else None)
