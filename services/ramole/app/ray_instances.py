"""The Ray that the services run on: a private one, or one that runs already."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ramole.app.ray_thread import RayThread
from ramole.app.replica_logs import ReplicaLogs
from ramole.app.scratch import MARK, Scratch
from ramole.app.services import SERVICES
from ramole.core.errors import Unavailable, WrongState
from ramole.core.settings import Settings
from ramole.executor.facts import check_device

_CONNECT_S = 10.0

_log = logging.getLogger(__name__)


class RayInstance(Protocol):
    """A Ray that this process is attached to between `start` and `stop`."""

    outlives_us: bool
    """Whether it goes on running after `stop`, and what runs on it as well."""

    async def start(self, settings: Settings) -> None:
        """Raises RamoleError: it does not run, or cannot run these services."""

    async def stop(self, cleanup: Callable[[], None], limit_s: float) -> None:
        """Leaves it. Never raises.

        Args:
            cleanup: run on Ray's thread before.
            limit_s: how long that may take.
        """


class PrivateRay:
    """One of our own on this machine: its processes, ports and files are nobody else's.

    Args:
        thread: on which all of Ray's calls are made.
    """

    outlives_us = False

    def __init__(self, thread: RayThread) -> None:
        self._thread = thread
        self._scratch = Scratch.make()  # at once: a cancelled start must know its folder
        self._logs: ReplicaLogs | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self, settings: Settings) -> None:
        """See `RayInstance`. From then on what replicas log of trouble is on standard error."""
        await self._thread.run(lambda: _start(settings, self._scratch.path))
        self._logs = ReplicaLogs(self._scratch.path / "session_latest" / "logs", sys.stderr)
        self._following = asyncio.create_task(self._logs.follow())

    async def stop(self, cleanup: Callable[[], None], limit_s: float) -> None:
        """See `RayInstance`. Ends every process of it and removes its files; what does not end in time is killed."""
        try:
            await _leave(self._thread, cleanup, limit_s, "Ray is killed")
        finally:
            if self._following is not None:
                self._following.cancel()
            if self._logs is not None:
                self._logs.copy()
            await asyncio.to_thread(self._scratch.remove)


class RunningRay:
    """One that somebody else has started, on this machine or as a cluster. It keeps its own logs and metrics.

    Args:
        thread: on which all of Ray's calls are made.
    """

    outlives_us = True

    def __init__(self, thread: RayThread) -> None:
        self._thread = thread

    async def start(self, settings: Settings) -> None:
        """See `RayInstance`."""
        await self._thread.run(lambda: _attach(settings.ray.address))

    async def stop(self, cleanup: Callable[[], None], limit_s: float) -> None:
        """See `RayInstance`."""
        await _leave(self._thread, cleanup, limit_s, "the applications may still run; `serve status` there shows them")


def _start(settings: Settings, folder: Path) -> None:
    os.environ.update(
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": str(settings.ray.niceness), MARK: str(folder)}
    )
    import ray

    _check_detached()
    ray.init(
        address="local",
        _temp_dir=str(folder),
        num_cpus=settings.ray.num_cpus,
        # Those of a cluster tell its nodes apart; here all of them are this machine.
        resources=_custom_resources(settings),
        include_dashboard=False,
        object_store_memory=settings.ray.object_store_bytes,
        _metrics_export_port=settings.ray.metrics_port or None,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    # Serve would wait for a GPU for ever. A replica sees one.
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    check_device(settings.executor.device, min(1, num_gpus))
    most = settings.executor.bounds[1]
    if SERVICES["executor"].needs_gpu(settings) and most > num_gpus:
        raise WrongState(
            f"{most} replicas need a GPU each; this machine has {num_gpus}",
            field="executor.replicas" if settings.executor.scaling is None else "executor.scaling.max",
            remedy=f"set it to at most {num_gpus}",
        )


def _custom_resources(settings: Settings) -> dict[str, float]:
    total: dict[str, float] = {}
    for spec in SERVICES.values():
        section = spec.section(settings)
        for name, amount in section.resources.custom.items():
            total[name] = total.get(name, 0.0) + amount * section.bounds[1]
    return total


def _attach(address: str) -> None:
    import ray
    from ray import serve

    _check_detached()
    try:
        if address != "auto":  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise Unavailable(
            f"there is no Ray to attach to at {address!r}: {why}", remedy="start one with `ray start --head`"
        ) from error
    taken = sorted(set(serve.status().applications) & set(SERVICES))
    if taken:
        raise WrongState(
            f"applications with the names of our services run there: {', '.join(taken)}",
            field="ray.address",
            remedy="end them; or to change a system that runs, `serve deploy` what `ramole serve-config` writes",
        )


def _check_detached() -> None:
    import ray

    if ray.is_initialized():
        raise WrongState("this process is attached to a Ray instance already", remedy="use another process")


async def _leave(thread: RayThread, cleanup: Callable[[], None], limit_s: float, otherwise: str) -> None:
    """Runs `cleanup` and detaches. Never raises: what went wrong is logged, with `otherwise`, which then is so."""
    try:
        async with asyncio.timeout(limit_s):
            await thread.run(lambda: _detach(cleanup))
    except TimeoutError:
        _log.warning("Ray has not let go within %s s: %s", limit_s, otherwise)
    except Exception:
        _log.exception("Ray has not let go in order: %s", otherwise)


def _detach(cleanup: Callable[[], None]) -> None:
    import ray

    try:
        if ray.is_initialized():
            cleanup()
    finally:
        ray.shutdown()
