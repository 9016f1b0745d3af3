"""kill -9 on the whole process group at any moment: every acknowledged adapter is still there and retrievable."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from ramole.client.client import RamoleClient
from ramole.core.errors import RamoleError
from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess


async def upload_until_dead(
    server: ServerProcess, zoo: Zoo, acknowledged: dict[str, str], enough: asyncio.Event
) -> None:
    """Uploads adapters one after the other; adds name -> digest of those that were acknowledged; three are enough."""
    async with RamoleClient(server.address, timeout_s=60) as client:
        try:
            for i, adapter in enumerate(zoo.adapters * 10):
                done = await client.upload(adapter.path, adapter.samples, adapter=f"{i}-{adapter.name}")
                acknowledged[done.record.ref.name] = done.record.ref.digest
                if i == 2:
                    enough.set()
        except RamoleError:
            pass


async def check(server: ServerProcess, zoo: Zoo, acknowledged: dict[str, str]) -> None:
    prompts = {adapter.name: adapter.prompts[0].prompt for adapter in zoo.adapters}
    async with RamoleClient(server.address) as client:
        listed = {record.ref.name: record.ref.digest async for record in client.adapters()}
        assert acknowledged.items() <= listed.items()
        for name in acknowledged:
            task = name.split("-", 1)[1]
            found = {a.ref.name for a in (await client.route(prompts[task], k=8)).adapters}
            # The same content may be there under several names with the very same similarity.
            same = {n for n, digest in listed.items() if digest == listed[name]}
            assert found & same, f"{name} is not retrievable"
        answer = await client.complete(prompts[zoo.adapters[0].name])
        assert answer.usage.adapters


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--local",), ()], ids=["local", "ray"])
def test_every_acknowledged_adapter_survives_a_kill(tmp_path: Path, zoo: Zoo, options: tuple[str, ...]) -> None:
    """Between any two steps of it, and again and again: tests/contract/gateway/test_crash.py."""
    acknowledged: dict[str, str] = {}
    server = ServerProcess(tmp_path / "data", *options).wait_until_serving()

    async def run() -> None:
        enough = asyncio.Event()
        uploads = asyncio.create_task(upload_until_dead(server, zoo, acknowledged, enough))
        await asyncio.wait_for(enough.wait(), 120)
        await asyncio.sleep(random.uniform(0.0, 0.4))  # somewhere inside the next upload
        await asyncio.to_thread(server.kill)
        await uploads

    asyncio.run(run())
    assert acknowledged
    server = ServerProcess(tmp_path / "data", *options).wait_until_serving()
    asyncio.run(check(server, zoo, acknowledged))
    assert not server.stop(), "processes outlived the server"
