"""The composition root: all five services as one running system, on Ray or in this process.

Also the import path of Serve configurations and of KubeRay, e.g. ``import_path: ramole.app:build_gateway``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ramole.app.resolution import resolve
from ramole.app.system import System, run
from ramole.core.errors import RamoleError, Unavailable
from ramole.core.setting_errors import load_settings
from ramole.core.settings import Settings

if TYPE_CHECKING:
    from ray import serve

__all__ = ["System", "load_settings", "resolve", "run", "start", "start_local"]

_ALL_INTERFACES = "0.0.0.0"  # where Ray's agent answers

_log = logging.getLogger(__name__)


async def start(settings: Settings) -> System:
    """Runs all five services on a private Ray Serve instance, each as an application of its own.

    Raises:
        RamoleError: they cannot start; nothing is left running then.
    """
    with _every_error_is_ours():
        from ramole.app.cluster import RaySystem
        from ramole.app.preflight import preflight

        settings = resolve(settings)
        await asyncio.to_thread(preflight, settings, metrics_host=_ALL_INTERFACES)
        system = RaySystem()
        await system.start(settings)
        return system


async def start_local(settings: Settings) -> System:
    """Runs all five services in this process, each on a port of its own. Raises as `start`."""
    with _every_error_is_ours():
        from ramole.app.local import LocalSystem
        from ramole.app.preflight import check_device, preflight

        settings = resolve(settings)
        await asyncio.to_thread(preflight, settings, metrics_host=settings.metrics.host)
        if settings.executor.device != "cpu":
            import torch

            check_device(settings.executor.device, torch.cuda.device_count())
        system = LocalSystem()
        await system.start(settings)
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

    return application(room, resolve(load_settings(**args)))


@contextmanager
def _every_error_is_ours() -> Iterator[None]:
    """What a library says of a model or a file becomes one line; its traceback is in the log."""
    try:
        yield
    except RamoleError:
        raise
    except Exception as error:
        _log.exception("the system did not start")
        raise Unavailable(
            f"the system did not start: {type(error).__name__}: {error}", remedy="its log has the traceback"
        ) from error
