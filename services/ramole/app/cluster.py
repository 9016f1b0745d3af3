"""All five services on a private Ray Serve instance, each as an application of its own."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ramole.core.errors import Unavailable, WrongState
from ramole.core.settings import ServerSettings, Settings
from ramole.transport.picker import ServePicker

if TYPE_CHECKING:
    from ray import serve

ROOMS = ("adapters", "embedding", "retrieval", "executor", "gateway")

_REARM_S = 0.1


def application(room: str, settings: Settings) -> serve.Application:
    """The Serve application of one service."""
    return importlib.import_module(f"ramole.{room}.deployment").build(settings)


class RaySystem:
    """One private Ray instance on this machine with five Serve applications.

    Ray's processes, ports and files are its own: any number of instances run side by side, and none is ever attached
    to or stopped but this one. Only one can live in a process.
    """

    def __init__(self) -> None:
        self._address = ""
        self._folder: str | None = None
        self._lock = asyncio.Lock()

    @property
    def address(self) -> str:
        """``host:port`` of the public gateway."""
        return self._address

    async def start(self, settings: Settings) -> None:
        """Starts Ray and all applications; returns when the gateway serves. Takes half a minute on two cores."""
        check_port(settings.gateway.server)
        try:
            await _in_thread(self._start_ray, settings.metrics.port)
            await _in_thread(_deploy, settings)
            self._address = await _gateway_address()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drains the applications, then ends every process of this Ray instance and removes its files."""
        async with self._lock:
            if self._folder is not None:
                try:
                    await _in_thread(_stop_ray)
                finally:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    self._folder = None

    def _start_ray(self, metrics_port: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        if ray.is_initialized():
            raise WrongState("this process is attached to a Ray instance already", remedy="use another process")
        # Unix sockets live below this folder and their paths are limited to 107 bytes: it must be short.
        self._folder = tempfile.mkdtemp(prefix="ramole-", dir="/tmp")
        ray.init(
            address="local",
            _temp_dir=self._folder,
            num_cpus=8,  # logical: the services bring their own thread limits
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            _metrics_export_port=metrics_port or None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def check_port(settings: ServerSettings) -> None:
    """Says at once what the gateway's replica would find out half a minute later. Raises WrongState."""
    if settings.port == 0:
        return
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise WrongState(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
                field="gateway.server.port",
                remedy="choose another port, or 0 for any free one",
            ) from error


def _deploy(settings: Settings) -> None:
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled")
    targets = [serve.RunTarget(application(room, settings), name=room, route_prefix=None) for room in ROOMS]
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        raise Unavailable(f"the system did not start: {_why(error)}") from error


def _why(error: RuntimeError) -> str:
    """What the replicas said. Serve's own error only names the deployment that failed."""
    from ray import serve

    messages = [
        deployment.message
        for app in serve.status().applications.values()
        for deployment in app.deployments.values()
        if deployment.message and deployment.status.name not in ("HEALTHY", "UPDATING")
    ]
    # A replica's traceback ends with the one line that says what to do.
    lines = [[line for line in message.splitlines() if line.strip()][-1].strip() for message in messages]
    return "; ".join(lines) or str(error)


async def _gateway_address() -> str:
    async with ServePicker("Gateway", "gateway").pick() as address:
        return address


def _stop_ray() -> None:
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        if ray.is_initialized():
            # The gateway first, and not serve.shutdown(): it kills the controller under its own open calls, and Ray
            # prints an error for each of them.
            with suppress(RayServeException):  # Serve itself had not come up
                for room in reversed(ROOMS):
                    serve.delete(room)
    finally:
        ray.shutdown()


async def _in_thread(work: Callable[..., None], *args: object) -> None:
    """Runs blocking work. A cancelled caller still waits for it: nothing may be torn down under its feet."""
    task = asyncio.create_task(asyncio.to_thread(work, *args))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,), timeout=_REARM_S)
        except asyncio.CancelledError as error:
            cancelled = error
        _rearm_signals()
    if cancelled is not None:
        raise cancelled
    task.result()


def _rearm_signals() -> None:
    """Installs this process's own handlers again: while Ray starts, its core puts in one that aborts on SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)
