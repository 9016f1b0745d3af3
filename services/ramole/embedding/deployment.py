"""The sentence encoder as a Ray Serve application. One application, one deployment; any number of replicas."""

from __future__ import annotations

from functools import partial

import ray.util
from ray import serve

from ramole.core.settings import Settings
from ramole.transport.ray_metrics import RayMetrics
from ramole.transport.replica import Replica, build_service, deployment_options
from ramole.transport.service import Service


def build(settings: Settings) -> serve.Application:
    """The application; bind it with resolved settings."""
    server = settings.embedding.server
    options = deployment_options("Embedding", server)
    replica = serve.deployment(**options)(Replica)
    return replica.bind(
        partial(build_service, make_service, settings), server, ray.util.get_node_ip_address, RayMetrics
    )


def make_service(settings: Settings) -> Service:
    """Runs in the replica: heavy imports happen there only."""
    from ramole.embedding.servicer import EmbeddingService

    return EmbeddingService(settings)
