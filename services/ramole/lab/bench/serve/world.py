"""One server with the shipped base model, some of its adapters, and a key for each tenant of the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ramole.client import RamoleClient
from ramole.gateway.keys import KeyFile, Role
from ramole.lab.bench.serve.process import ServerProcess
from ramole.zoo.catalog import ZooAdapter

OWNER, CROWD, LIMITED = "owner", "crowd", "limited"
"""Whose the adapters are; who crowds; who may ask once a minute."""

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class World:
    """A server that runs.

    Attributes:
        keys: by tenant.
        adapters: what is stored, public, under their names, of the tenant `OWNER`.
    """

    server: ServerProcess
    keys: dict[str, str]
    adapters: Sequence[ZooAdapter]

    def client(self, tenant: str = OWNER) -> RamoleClient:
        """A new connection."""
        return RamoleClient(self.server.address, timeout_s=_TIMEOUT_S, key=self.keys[tenant], retries=0)


async def start_world(folder: Path, adapters: Sequence[ZooAdapter], *, metrics_port: int = 0) -> World:
    """Starts the server and uploads `adapters`. Stop it by `world.server.stop`."""
    data_dir = folder / "ramole"
    keys = KeyFile(data_dir / "keys.json")
    secrets = {tenant: keys.add("bench", tenant, Role.PUBLISHER)[1] for tenant in (OWNER, CROWD, LIMITED)}
    settings = {
        "data_dir": str(data_dir),
        "metrics": {"port": metrics_port},
        "gateway": {
            "server": {"port": 0},
            "http": {"port": 0},
            "tenant_limits": {LIMITED: {"requests_per_minute": 1}},
        },
    }
    world = World(ServerProcess("ramole", folder, settings), secrets, adapters)
    try:
        await _upload(world)
    except BaseException:
        world.server.stop()
        raise
    return world


async def _upload(world: World) -> None:
    async with world.client() as client:
        for adapter in world.adapters:
            await client.upload(adapter.path, adapter.samples, adapter=adapter.name, is_public=True)
