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
from ramole.core.settings import PlainSettings, Settings
from ramole.lab.bench.serve.peers import CollectorPeer, FastApiPeer, GrpcPeer


async def _ramole(settings: Settings) -> System:
    return await _started(LocalSystem(), settings)


async def _null(settings: Settings) -> System:
    null = replace(SERVICES["executor"], factory="ramole.lab.bench.serve.null_executor:NullExecutorService")
    return await _started(LocalSystem(SERVICES | {"executor": null}), settings)


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
