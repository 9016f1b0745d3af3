"""One server as a process: ``python -m ramole.lab.bench.serve.child KIND SETTINGS``, which tells its addresses."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from ramole.app import resolve, run
from ramole.app.local import LocalSystem
from ramole.app.services import SERVICES
from ramole.app.system import System
from ramole.core.settings import PlainSettings, Settings, TracingSettings
from ramole.lab.bench.serve.peers import CollectorPeer, FastApiPeer, GrpcPeer


async def _ramole(settings: Settings) -> System:
    return await _started(LocalSystem(), settings)


async def _null(settings: Settings) -> System:
    null = replace(SERVICES["executor"], factory="ramole.lab.bench.serve.null_executor:NullExecutorService")
    return await _started(LocalSystem(SERVICES | {"executor": null}), settings)


class _SideBySide:
    """Null systems in one process, whose differences are then not those of processes: without tracing, with that of the
    settings, and with every call traced. `address` joins theirs with commas; `http_address` is empty."""

    http_address = ""

    def __init__(self, settings: Settings) -> None:
        tracing = settings.tracing
        self._tracings = (TracingSettings(), tracing, tracing.model_copy(update={"sampling_ratio": 1.0}))
        self._settings = settings
        self._systems: list[System] = []

    @property
    def address(self) -> str:
        """Of all of them."""
        return ",".join(system.address for system in self._systems)

    async def start(self) -> None:
        """Starts one after the other."""
        for number, tracing in enumerate(self._tracings):
            own = {"data_dir": self._settings.data_dir / str(number), "tracing": tracing}
            self._systems.append(await _null(self._settings.model_copy(update=own)))

    async def stop(self) -> None:
        """Stops those that run."""
        for system in self._systems:
            await system.stop()


async def _traced(settings: Settings) -> System:
    side = _SideBySide(settings)
    await side.start()
    return side


async def _started(system: LocalSystem, settings: Settings) -> System:
    await system.start(resolve(settings))
    return system


async def _grpc(_: Settings) -> System:
    peer = GrpcPeer()
    await peer.start()
    return peer


async def _fastapi(_: Settings) -> System:
    peer = FastApiPeer()
    await peer.start()
    return peer


async def _collector(_: Settings) -> System:
    peer = CollectorPeer()
    await peer.start()
    return peer


KINDS: dict[str, Callable[[Settings], Coroutine[Any, Any, System]]] = {
    "ramole": _ramole,
    "null": _null,
    "grpc": _grpc,
    "fastapi": _fastapi,
    "collector": _collector,
    "traced": _traced,
}


def _tell(system: System) -> None:
    sys.stdout.write(json.dumps({"address": system.address, "http_address": system.http_address}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until SIGTERM."""
    kind, settings = sys.argv[1:]
    asyncio.run(run(KINDS[kind], PlainSettings.model_validate_json(settings), _tell))


if __name__ == "__main__":
    main()
