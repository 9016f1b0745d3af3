"""All five services on a private Ray Serve instance, each as an application of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from ramole.app.preflight import check_device
from ramole.app.ray_thread import RayThread
from ramole.app.replica_logs import ReplicaLogs
from ramole.app.scratch import MARK, Scratch
from ramole.app.services import PUBLIC, SERVICES
from ramole.core import errors
from ramole.core.address import join_address
from ramole.core.errors import RamoleError, Unavailable, WrongState
from ramole.core.settings import Settings
from ramole.transport.picker import ServePicker

_POLL_S = 0.25
_OURS = re.compile(rf"^{re.escape(errors.__name__)}\.(\w+): ", re.MULTILINE)

_log = logging.getLogger(__name__)


class RaySystem:
    """One private Ray instance on this machine with five Serve applications.

    Ray's processes, ports and files are its own: any number of instances run side by side, and none is ever attached
    to or stopped but this one. Only one can live in a process.
    """

    def __init__(self) -> None:
        self._address = self._http_address = ""
        self._scratch: Scratch | None = None
        self._ray = RayThread()
        self._logs: ReplicaLogs | None = None
        self._following: asyncio.Task[None] | None = None
        self._stop_s = 0.0
        self._has_served = False
        self._lock = asyncio.Lock()

    @property
    def address(self) -> str:
        """``host:port`` of the public gateway."""
        return self._address

    @property
    def http_address(self) -> str:
        """``host:port`` of its HTTP port; '' = there is none, or it is any free one."""
        return self._http_address

    async def start(self, settings: Settings) -> None:
        """Starts Ray and all applications; returns when the gateway serves. Takes half a minute on two cores.

        Raises:
            RamoleError: a service cannot start, as soon as the first has failed for good; nothing is left running then.
        """
        self._stop_s = settings.ray.stop_s
        self._scratch = scratch = Scratch.make()  # at once: a cancelled start must know its folder
        try:
            await self._ray.run(lambda: _start_ray(settings, scratch.path))
            self._logs = ReplicaLogs(scratch.path / "session_latest" / "logs", sys.stderr)
            self._following = asyncio.create_task(self._logs.follow())
            await self._ray.run(lambda: _deploy(settings))
            await self._until_running()
            self._address = await _gateway_address()
            http = settings.gateway.http
            self._http_address = join_address(http.host, http.port) if http.port else ""
            self._has_served = True
            self._stop_s += settings.gateway.server.grace_s
        except BaseException:
            await self.stop()
            raise

    async def _until_running(self) -> None:
        while True:
            if await self._ray.run(_are_running):
                return
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Drains the applications, then ends every process of this Ray instance and removes its files.

        What does not end in time is killed.
        """
        async with self._lock:
            if self._scratch is None:
                return
            scratch, self._scratch = self._scratch, None
            try:
                async with asyncio.timeout(self._stop_s):
                    await self._ray.run(lambda: _stop_ray(drains=self._has_served))
            except TimeoutError:
                _log.warning("Ray has not stopped within %s s and is killed", self._stop_s)
            except Exception:  # whatever it was, nothing of it may be left
                _log.exception("Ray has not stopped in order and is killed")
            finally:
                if self._following is not None:
                    self._following.cancel()
                if self._logs is not None:
                    self._logs.copy()
                await asyncio.to_thread(scratch.remove)


def _start_ray(settings: Settings, folder: Path) -> None:
    os.environ.update(
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": str(settings.ray.niceness), MARK: str(folder)}
    )
    import ray

    if ray.is_initialized():
        raise WrongState("this process is attached to a Ray instance already", remedy="use another process")
    ray.init(
        address="local",
        _temp_dir=str(folder),
        num_cpus=settings.ray.num_cpus,
        include_dashboard=False,
        object_store_memory=settings.ray.object_store_bytes,
        _metrics_export_port=settings.metrics.port or None,
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


def _deploy(settings: Settings) -> None:
    from ray import serve

    from ramole.app.applications import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled")
    targets = [
        serve.RunTarget(application(spec, settings), name=name, route_prefix=None) for name, spec in SERVICES.items()
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _are_running() -> bool:
    """Raises Unavailable when one has failed for good: Serve has given up, or a further try cannot help."""
    from ray import serve

    applications = serve.status().applications
    failed = []
    for name in SERVICES:
        found = applications.get(name)
        for deployment in found.deployments.values() if found else ():
            error = _error_in(deployment.message)
            is_final = error is not None and not issubclass(error, Unavailable)
            if is_final or (found and found.status.name == "DEPLOY_FAILED"):
                failed.append(f"{name}: {_last_words(deployment.message) or deployment.status.name}")
        if found and found.status.name == "DEPLOY_FAILED" and not found.deployments:
            failed.append(f"{name}: {_last_words(found.message)}")
    if failed:
        raise Unavailable(f"the system did not start: {'; '.join(failed)}")
    return all(name in applications and applications[name].status.name == "RUNNING" for name in SERVICES)


def _error_in(message: str) -> type[RamoleError] | None:
    """The class of our own error that a replica's traceback ends with."""
    names = _OURS.findall(message)
    found = getattr(errors, names[-1], None) if names else None
    return found if isinstance(found, type) and issubclass(found, RamoleError) else None


def _last_words(message: str) -> str:
    """What says what to do, in a replica's traceback: our error, or else the last line."""
    ours = list(_OURS.finditer(message))
    if ours:
        return " ".join(message[ours[-1].end() :].split())
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


async def _gateway_address() -> str:
    async with ServePicker(PUBLIC).pick() as address:
        return address


def _stop_ray(*, drains: bool) -> None:
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        if drains and ray.is_initialized():
            # The gateway first, and not serve.shutdown(): it kills the controller under its own open calls, and Ray
            # prints an error for each of them.
            with suppress(RayServeException):  # Serve itself had not come up
                for name in reversed(SERVICES):
                    serve.delete(name)
    finally:
        ray.shutdown()
