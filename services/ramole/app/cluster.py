"""All five services on a Ray, each as a Serve application of its own."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress

from ramole.app.ray_instances import PrivateRay, RayInstance, RunningRay
from ramole.app.ray_thread import RayThread
from ramole.app.services import PUBLIC, SERVICES
from ramole.core import errors
from ramole.core.address import join_address
from ramole.core.errors import RamoleError, Unavailable
from ramole.core.settings import Settings
from ramole.transport.picker import ServePicker

_POLL_S = 0.25
_OURS = re.compile(rf"^{re.escape(errors.__name__)}\.(\w+): ", re.MULTILINE)


class RaySystem:
    """Five Serve applications, on a Ray instance of their own or on one that runs already.

    Any number of private instances run side by side, and none is ever attached to or stopped but this one. Of one that
    runs already only our applications are touched. Only one system can live in a process.
    """

    def __init__(self) -> None:
        self._address = self._http_address = ""
        self._ray = RayThread()
        self._instance: RayInstance | None = None
        self._stop_s = 0.0
        self._has_deployed = self._has_served = False
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
        """Starts all applications; returns when the gateway serves. Takes half a minute on two cores.

        Raises:
            RamoleError: a service cannot start, as soon as the first has failed for good; nothing is left running then.
        """
        self._stop_s = settings.ray.stop_s
        self._instance = instance = (RunningRay if settings.ray.address else PrivateRay)(self._ray)
        try:
            await instance.start(settings)
            self._has_deployed = True
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
        """Drains and ends the applications, and the instance if it is ours."""
        async with self._lock:
            instance, self._instance = self._instance, None
            if instance is None:
                return
            # Of a private instance that never served there is nothing to drain: it ends at once.
            is_there = self._has_deployed if instance.outlives_us else self._has_served
            await instance.stop(_delete if is_there else lambda: None, self._stop_s)


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


def _delete() -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    # The gateway first, and not serve.shutdown(): it kills the controller under its own open calls, and Ray prints an
    # error for each of them.
    with suppress(RayServeException):  # Serve itself had not come up
        for name in reversed(SERVICES):
            serve.delete(name)
