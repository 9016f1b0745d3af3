"""The composition root: all five services as one running system, on Ray or in this process.

Also the import path of Serve configurations and of KubeRay: ``import_path: ramole.app:build`` with
``args: {service: gateway, settings: {...}}`` for each service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ramole.app.resolution import resolve
from ramole.app.system import System, run
from ramole.core.errors import RamoleError, Unavailable, WrongState
from ramole.core.setting_errors import load_settings
from ramole.core.settings import Settings

if TYPE_CHECKING:
    from ray import serve

__all__ = ["System", "build", "load_settings", "resolve", "run", "start", "start_local"]

_log = logging.getLogger(__name__)


async def start(settings: Settings) -> System:
    """Runs all five services on Ray Serve, each as an application of its own: on the Ray of ``ray.address``, or on a
    private one.

    Raises:
        RamoleError: they cannot start; nothing is left running then.
    """
    with _every_error_is_ours():
        from ramole.app.cluster import RaySystem
        from ramole.app.preflight import preflight, settle_device
        from ramole.app.services import check_replicas
        from ramole.app.trust import check_hosts

        settings = resolve(settings)
        if settings.ray.address:  # what its nodes have, and which ports are free there, is not known here
            check_replicas(settings, "cluster")
            check_hosts(settings)
        else:
            settings = await asyncio.to_thread(settle_device, settings)
            check_replicas(settings, "machine")
            await asyncio.to_thread(preflight, settings)
        system = RaySystem()
        await system.start(settings)
        return system


async def start_local(settings: Settings) -> System:
    """Runs all five services in this process, each on a port of its own. Raises as `start`."""
    with _every_error_is_ours():
        from ramole.app.local import LocalSystem
        from ramole.app.preflight import preflight, settle_device
        from ramole.app.services import check_replicas
        from ramole.executor.facts import check_device

        settings = await asyncio.to_thread(settle_device, resolve(settings))
        check_replicas(settings, "process")
        await asyncio.to_thread(preflight, settings)
        if settings.executor.device != "cpu":
            import torch

            check_device(settings.executor.device, torch.cuda.device_count())
        system = LocalSystem()
        await system.start(settings)
        return system


def build(args: dict[str, Any]) -> serve.Application:
    """The application of one service, for Serve configurations and KubeRay.

    Args:
        args: ``service``, its name, and ``settings``, as in the YAML file; they come before the environment and the
            file. The applications of one system agree on what they share; what the service does not read has no effect.

    Raises:
        WrongState: something else is given, there is no such service, or the settings are wrong.
    """
    from ramole.app.applications import application
    from ramole.app.services import SERVICES, check_replicas
    from ramole.app.trust import check_hosts

    for key in args:
        if key not in ("service", "settings"):
            raise WrongState("no argument has this name", field=str(key), remedy="there are: service, settings")
    name, given = args.get("service"), args.get("settings", {})
    if name not in SERVICES:
        raise WrongState(f"{name!r} is no service", field="service", remedy=f"name one of: {', '.join(SERVICES)}")
    if not isinstance(given, dict):
        raise WrongState(f"{given!r} is no mapping", field="settings", remedy="write keys and values, as in the file")
    for key in given:
        if key not in Settings.model_fields:  # an argument of pydantic's perhaps, which would take it
            known = ", ".join(Settings.model_fields)
            raise WrongState("no setting has this name", field=f"settings.{key}", remedy=f"there are: {known}")
    settings = resolve(load_settings(**given))
    check_replicas(settings, "cluster")
    check_hosts(settings)
    return application(SERVICES[name], settings)


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
