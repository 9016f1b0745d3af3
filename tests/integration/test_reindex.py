"""A trained retriever takes the place of the plain encoder on a running server, as an operator would do it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ramole.client.client import RamoleClient
from ramole.core.settings import EmbeddingSettings, PreviousEncoder
from ramole.zoo.catalog import Zoo, ZooAdapter
from support.local_system import local_system

PLAIN = EmbeddingSettings(retriever="")
BOTH = EmbeddingSettings(retriever="zoo", previous=PreviousEncoder(retriever=""))
TRAINED = EmbeddingSettings(retriever="zoo")


async def upload(address: str, adapters: list[ZooAdapter]) -> None:
    async with RamoleClient(address) as client:
        for adapter in adapters:
            await client.upload(adapter.path, adapter.samples, adapter=adapter.name)


async def similarity(address: str, adapter: ZooAdapter) -> float:
    """Of an adapter to one of its samples: tells which encoder the index is of."""
    async with RamoleClient(address) as client:
        route = await client.route(adapter.samples[0], k=8)
    return next(found.similarity for found in route.adapters if found.ref.name == adapter.name)


async def reindex_under_traffic(address: str, adapters: list[ZooAdapter], late: ZooAdapter) -> int:
    """Generates and uploads until `ramole reindex` has ended well. Returns how many answers came meanwhile."""
    num_answers = 0
    over = asyncio.Event()

    async def ask(client: RamoleClient, adapter: ZooAdapter) -> None:
        nonlocal num_answers
        while not over.is_set():
            answer = await client.complete(adapter.samples[0])
            assert adapter.name in {used.ref.name for used in answer.usage.adapters}
            num_answers += 1

    async def rebuild() -> None:
        try:
            command = [str(Path(sys.executable).with_name("ramole")), "reindex", "--address", address]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            said, _ = await process.communicate()
            assert process.returncode == 0, said.decode()
        finally:
            over.set()

    async with RamoleClient(address) as client, asyncio.TaskGroup() as group:
        for adapter in adapters[:3]:
            group.create_task(ask(client, adapter))
        group.create_task(rebuild())
        group.create_task(upload(address, [late]))
    return num_answers


async def test_a_trained_retriever_takes_over_while_requests_run(tmp_path: Path, zoo: Zoo) -> None:
    *adapters, late = zoo.adapters[:13]
    async with local_system(tmp_path, embedding=PLAIN) as system:
        await upload(system.address, adapters)
        plain = await similarity(system.address, adapters[0])

    async with local_system(tmp_path, embedding=BOTH) as system:
        assert await similarity(system.address, adapters[0]) == plain
        assert await reindex_under_traffic(system.address, adapters, late) > 3
        trained = await similarity(system.address, adapters[0])
        assert abs(trained - plain) > 0.01

    async with local_system(tmp_path, embedding=TRAINED) as system:
        assert await similarity(system.address, adapters[0]) == trained
        for adapter in (*adapters, late):
            assert await similarity(system.address, adapter) > 0
