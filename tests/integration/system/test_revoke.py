"""The kill switch on the running system: requests that use a revoked adapter end, others do not notice."""

from __future__ import annotations

import asyncio
import time

from ramole.client import Chunk, RamoleClient
from ramole.core.errors import Cancelled
from ramole.core.sampling import Sampling
from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess

# Hot enough to babble on until it is stopped.
BABBLE = Sampling(max_tokens=200, temperature=100.0, seed=1)


async def babble(client: RamoleClient, adapter: str, has_begun: asyncio.Event) -> tuple[bool, float]:
    """Whether it was cancelled, and when it ended."""
    try:
        async for event in client.generate("tell me", adapters=[adapter], sampling=BABBLE):
            if isinstance(event, Chunk):
                has_begun.set()
    except Cancelled:
        return True, time.perf_counter()
    return False, time.perf_counter()


async def test_running_requests_of_a_revoked_adapter_end_at_once(system: ServerProcess, zoo: Zoo) -> None:
    async with RamoleClient(system.address) as client:
        for name, adapter in (("doomed", zoo.adapters[0]), ("kept", zoo.adapters[1])):
            await client.upload(adapter.path, adapter.samples, adapter=f"revoke/{name}")
        begun = [asyncio.Event() for _ in range(4)]
        doomed = [asyncio.create_task(babble(client, "revoke/doomed", event)) for event in begun[:3]]
        kept = asyncio.create_task(babble(client, "revoke/kept", begun[3]))
        async with asyncio.timeout(60):
            for event in begun:
                await event.wait()
        running = [task for task in doomed if not task.done()]
        asked = time.perf_counter()
        revoked = await client.revoke("revoke/doomed", comment="test")
        ended = await asyncio.gather(*running)
        assert [str(ref) for ref in revoked.refs] == ["revoke/doomed@1"]
        assert revoked.aborted == sum(was_cancelled for was_cancelled, _ in ended)
        assert revoked.aborted > 0
        print(f"revoked to aborted: {max(at for _, at in ended) - asked:.3f} s")  # noqa: T201
        assert not (await kept)[0]
        history = await client.history("revoke/doomed")
        assert (history[0].removal, history[0].comment) == ("revoked", "test")
        await client.delete("revoke/kept")
