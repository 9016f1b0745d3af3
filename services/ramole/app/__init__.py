"""The composition root: all five services as one running system, on Ray or in this process.

Also the import path of Serve configurations and of KubeRay, e.g. ``import_path: ramole.app:build_gateway``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ramole.app.resolution import resolve
from ramole.app.system import System, run
from ramole.core.settings import Settings

if TYPE_CHECKING:
    from ray import serve

__all__ = ["System", "resolve", "run", "start", "start_local"]


async def start(settings: Settings) -> System:
    """Runs all five services on a private Ray Serve instance, each as an application of its own."""
    from ramole.app.cluster import RaySystem

    system = RaySystem()
    await system.start(resolve(settings))
    return system


async def start_local(settings: Settings) -> System:
    """Runs all five services in this process, each on a port of its own."""
    from ramole.app.local import LocalSystem

    system = LocalSystem()
    await system.start(resolve(settings))
    return system


def build_embedding(args: dict[str, Any]) -> serve.Application:
    """The encoder's application; `args` override the settings, as in all builders below."""
    return _build("embedding", args)


def build_retrieval(args: dict[str, Any]) -> serve.Application:
    """The index's application."""
    return _build("retrieval", args)


def build_adapters(args: dict[str, Any]) -> serve.Application:
    """The store's application."""
    return _build("adapters", args)


def build_executor(args: dict[str, Any]) -> serve.Application:
    """The executor's application."""
    return _build("executor", args)


def build_gateway(args: dict[str, Any]) -> serve.Application:
    """The gateway's application."""
    return _build("gateway", args)


def _build(room: str, args: dict[str, Any]) -> serve.Application:
    from ramole.app.cluster import application

    return application(room, resolve(Settings(**args)))
