"""Services as Ray Serve applications: one application and one deployment for each, both called as the service is."""

from __future__ import annotations

import sys
from functools import partial

import ray.util
from ray import serve
from ray.serve.config import RequestRouterConfig

from ramole.app.logs import log_to
from ramole.app.services import SERVICES, ServiceSpec
from ramole.app.trust import trust_of
from ramole.core.settings import Settings
from ramole.transport.peers import Peers
from ramole.transport.picker import ServePicker
from ramole.transport.ray_metrics import RayMetrics
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
    options["num_replicas"] = section.replicas  # or, one day, an autoscaling policy of the table
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
    return replica.bind(partial(_server_of, spec.name, settings), ray.util.get_node_ip_address, RayMetrics)


def _server_of(name: str, settings: Settings) -> GrpcServer:
    """Runs in the replica, a process that belongs to it alone: its log lines go to standard error, which Ray keeps."""
    log_to(sys.stderr, settings)
    trust = trust_of(settings)
    return SERVICES[name].server(settings, lambda: Peers(ServePicker, trust), trust)
