"""Steady load of two tenants on a running system, and a history of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ramole.client import RamoleClient
from ramole.core.errors import Cancelled, RamoleError
from ramole.core.sampling import Sampling
from ramole.lab.chaos.history import OK, Asked, Changed, History

_SAMPLING = Sampling(max_tokens=12)
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Task:
    """An adapter and what it is asked.

    Attributes:
        folder: of the adapter, as PEFT writes it.
    """

    name: str
    folder: Path
    samples: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant of the traffic.

    Attributes:
        key: of a publisher.
        tasks: whose adapters are its own; other tenants may not use them.
    """

    name: str
    key: str
    tasks: tuple[Task, ...]


def write_variant(source: Path, target: Path, seed: str) -> None:
    """The adapter of `source` with another content: a revocation is one of the content, under all of its names."""
    from safetensors.numpy import load_file, save_file

    shutil.copy(source / "adapter_config.json", target)
    tensors = load_file(source / "adapter_model.safetensors")
    first = min(tensors)
    tensors[first] = tensors[first] * tensors[first].dtype.type(1 + random.Random(seed).random() / 100)
    save_file(tensors, target / "adapter_model.safetensors")


class Traffic:
    """Asks, uploads and revokes, from `set_up` on until the block of `running` ends.

    Args:
        address: of the public port.
        tenants: two or more.
        codes: that the documentation knows.
        askers: for each tenant, at once.
        deadline_s: of each request, with all its tries.
        retries: of each request.
        changes: whether adapters are uploaded and revoked meanwhile.
        seed: of everything random.
        ca_file: PEM, of a server with TLS; '' = without.
    """

    def __init__(
        self,
        address: str,
        tenants: Sequence[Tenant],
        codes: frozenset[str],
        *,
        askers: int = 3,
        deadline_s: float = 10.0,
        retries: int = 1,
        changes: bool = True,
        seed: int = 0,
        ca_file: str | Path = "",
    ) -> None:
        self.history = History(codes)
        self._tenants = tenants
        self._askers, self._deadline_s = askers, deadline_s
        self._changes = changes
        self._random = random.Random(seed)
        self._clients = {
            tenant.name: RamoleClient(address, key=tenant.key, ca_file=ca_file, timeout_s=deadline_s, retries=retries)
            for tenant in tenants
        }
        self._wanted: dict[tuple[str, str], str] = {}
        self._uploaded: list[tuple[Tenant, Task, str]] = []
        self._run = secrets.token_hex(3)  # names of one run are nobody else's
        self._start_s = time.monotonic()

    @property
    def now_s(self) -> float:
        """On the clock of the history."""
        return time.monotonic() - self._start_s

    async def set_up(self) -> None:
        """Uploads the tenants' adapters, and asks each prompt alone. Raises RamoleError: the system is not well."""
        for tenant in self._tenants:
            client = self._clients[tenant.name].with_options(timeout_s=120.0, retries=2)
            for task in tenant.tasks:
                await client.upload(task.folder, task.samples, adapter=task.name)
            for task in tenant.tasks:
                for prompt in task.prompts:
                    answer = await client.complete(prompt, adapters=[task.name], sampling=_SAMPLING)
                    self._wanted[task.name, prompt] = answer.text

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The load, as long as the block lasts; afterwards the repository is looked through."""
        tasks = [
            asyncio.create_task(self._ask_on(tenant, is_routed=number % 3 == 2))
            for tenant in self._tenants
            for number in range(self._askers)
        ]
        if self._changes:
            tasks.append(asyncio.create_task(self._change_on()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ended:
            if isinstance(end, Exception):
                raise end
        await self._look_through()

    async def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            await client.close()

    async def _ask_on(self, tenant: Tenant, *, is_routed: bool) -> None:
        chance = random.Random(self._random.random())
        while True:
            task = chance.choice(tenant.tasks)
            await self._ask(tenant, task, chance.choice(task.prompts), is_routed=is_routed)
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, tenant: Tenant, task: Task, prompt: str, *, is_routed: bool) -> None:
        start_s = self.now_s
        text, code = "", OK
        used: tuple[str, ...] = ()
        try:
            adapters = [] if is_routed else [task.name]
            answer = await self._clients[tenant.name].complete(prompt, adapters=adapters, sampling=_SAMPLING)
            text, used = answer.text, tuple(str(each.ref) for each in answer.usage.adapters)
        except RamoleError as error:
            code = error.reason()
        wanted = "" if is_routed else self._wanted[task.name, prompt]
        self.history.asked.append(
            Asked(tenant.name, start_s, self.now_s, self._deadline_s, code, wanted=wanted, text=text, used=used)
        )

    async def _change_on(self) -> None:
        for number in itertools.count():
            tenant = self._tenants[number % len(self._tenants)]
            task = self._random.choice(tenant.tasks)
            name = f"new-{self._run}-{number}"
            self._uploaded.append((tenant, task, name))
            client = self._clients[tenant.name]
            with TemporaryDirectory() as folder:
                await asyncio.to_thread(write_variant, task.folder, Path(folder), name)
                await self._change("upload", tenant, name, client.upload(folder, task.samples, adapter=name))
            if number % 4 == 3:
                tenant, _, old = self._random.choice(self._uploaded)
                await self._change("revoke", tenant, old, self._clients[tenant.name].revoke(old, comment="chaos"))
            await asyncio.sleep(0.5)

    async def _change(self, action: str, tenant: Tenant, name: str, change: Awaitable[object]) -> None:
        start_s, code = self.now_s, Cancelled.reason()  # what is broken off may have been done
        try:
            await change
            code = OK
        except RamoleError as error:
            code = error.reason()
        finally:
            self.history.changed.append(Changed(action, f"{tenant.name}/{name}", start_s, self.now_s, code))

    async def _look_through(self) -> None:
        """Everything that is listed can be used, or it was published in part."""
        for tenant in self._tenants:
            client = self._clients[tenant.name].with_options(timeout_s=120.0, retries=5)
            prompts = {name: task.prompts[0] for who, task, name in self._uploaded if who is tenant}
            listed = {record.ref.name async for record in client.adapters() if record.ref.tenant == tenant.name}
            for name, prompt in prompts.items():
                if name not in listed:
                    continue
                place = self.history.broken
                with contextlib.suppress(RamoleError):
                    await client.complete(prompt, adapters=[name], sampling=_SAMPLING)
                    place = self.history.found
                place.add(f"{tenant.name}/{name}")
