"""The mixture executor as a Ray Serve application. A request goes to the replica that holds its adapters."""

from __future__ import annotations

from functools import partial

import ray.util
from ray import serve
from ray.serve.config import RequestRouterConfig

from ramole.core.settings import Settings
from ramole.transport.ray_metrics import RayMetrics
from ramole.transport.replica import Replica, build_service, deployment_options, serve_peers
from ramole.transport.service import Service


def build(settings: Settings) -> serve.Application:
    """The application; bind it with resolved settings."""
    server = settings.executor.server
    options = deployment_options("Executor", server)
    options["request_router_config"] = RequestRouterConfig(
        request_router_class="ramole.transport.affinity_router:AdapterAffinityRouter",
        request_routing_stats_period_s=1.0,
    )
    if settings.executor.device.startswith("cuda"):
        options["ray_actor_options"]["num_gpus"] = 1
    replica = serve.deployment(**options)(Replica)
    return replica.bind(
        partial(build_service, make_service, settings), server, ray.util.get_node_ip_address, RayMetrics
    )


def make_service(settings: Settings) -> Service:
    """Runs in the replica: heavy imports happen there only."""
    from ramole.executor.servicer import ExecutorService

    return ExecutorService(settings, serve_peers())
