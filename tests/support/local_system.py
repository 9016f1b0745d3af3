"""The whole system in the test's own process: starts within seconds, its libraries are loaded already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ramole.app import start_local
from ramole.app.system import System
from ramole.core.settings import GatewaySettings, HttpSettings, PlainSettings, PublicServerSettings


@asynccontextmanager
async def local_system(
    data_dir: Path, *, gateway: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[System]:
    """Runs the five services on `data_dir`, on any free ports; stopped on the way out."""
    ports: dict[str, Any] = {"server": PublicServerSettings(port=0), "http": HttpSettings(port=0)}
    gateway = GatewaySettings(**ports | (gateway or {}))
    system = await start_local(PlainSettings(data_dir=data_dir, gateway=gateway, **settings))
    try:
        yield system
    finally:
        await system.stop()
