"""Kills a whole system with SIGKILL before every single call that its gateway makes to another service, one after the
other, and checks each time what a restart finds. A script, so that it may fork: pytest's process has threads.

Writes the number of crash points; any broken promise ends it with an AssertionError.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ramole.gateway.backends import Backends
from ramole.transport.picker import DirectoryPicker
from support import gateway_world
from support.gateway_world import BASE
from support.real_world import RealWorld, adapter_files

Client = Any
Step = tuple[str, Callable[[Client, Path], Awaitable[object]], set[str]]


def upload(name: str, content: int) -> Callable[[Client, Path], Awaitable[object]]:
    return lambda client, folder: client.upload(folder / str(content), [f"sample n{content}"], adapter=name)


# What is done, and which versions are live afterwards. b and c have the same content.
SCENARIO: list[Step] = [
    ("upload", upload("a", 0), {"a@1"}),
    ("replace", upload("a", 1), {"a@1", "a@2"}),
    ("upload", upload("b", 2), {"a@1", "a@2", "b@1"}),
    ("roll back", lambda client, _: client.rollback("a@1"), {"a@1", "a@2", "a@3", "b@1"}),
    ("delete", lambda client, _: client.delete("a@3"), {"a@1", "a@2", "b@1"}),
    ("upload", upload("c", 2), {"a@1", "a@2", "b@1", "c@1"}),
    ("revoke", lambda client, _: client.revoke("b"), {"a@1", "a@2"}),
    ("delete", lambda client, _: client.delete("a"), set()),
    ("upload", upload("d", 3), {"d@1"}),
]


class Fatal(DirectoryPicker):
    """Ends the process before its `left`-th call."""

    left = 0

    def _count(self) -> None:
        Fatal.left -= 1
        if Fatal.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def pick(self, affinity: Sequence[str] = (), avoid: str = "") -> AsyncIterator[str]:
        self._count()
        async with super().pick(affinity, avoid) as address:
            yield address

    async def everyone(self) -> Sequence[str]:
        self._count()
        return await super().everyone()


async def run(folder: Path, number: int, log: Callable[[str], object]) -> None:
    """The scenario up to its `number`-th call."""
    gateway_world.DirectoryPicker = Fatal  # type: ignore[misc]
    system = RealWorld(folder)
    await system.start_neighbours()
    await system.start_gateway()
    Fatal.left = number
    for name, step, _ in SCENARIO:
        log(f"begun {name}")
        await step(system.client, folder)
        log(f"done {name}")


async def check(folder: Path, lines: Sequence[str]) -> None:
    """What was acknowledged is true; the step that was under way is done or is not; the index fits the store."""
    system = RealWorld(folder)
    await system.start_neighbours()
    await system.start_gateway()
    num_done = sum(line.startswith("done") for line in lines)
    before = SCENARIO[num_done - 1][2] if num_done else set()
    is_begun = len(lines) > 2 * num_done
    name, _, after = SCENARIO[num_done] if is_begun else ("", None, before)
    live = {f"{record.ref.name}@{record.ref.version}" async for record in system.client.adapters()}
    if name == "delete":  # of several versions: one after the other
        assert after <= live <= before, (name, live)
    else:
        assert live in (before, after), (name, live)
    backends = Backends(system.peers(), base_id=BASE)
    assert set(await backends.indexed()) == await backends.findable(), name
    again = await system.client.upload(folder / "4", ["sample n4"], adapter="again")
    assert await system.find(4) == again.record.ref.name


def make_adapters(folder: Path) -> None:
    """Folders 0, 1, ... with different contents."""
    for number in range(5):
        path = folder / str(number)
        path.mkdir()
        for name, data in adapter_files(number).items():
            (path / name).write_bytes(data)


def forked(work: Callable[[], None]) -> int:
    """Runs `work` in a process of its own. Returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitpid(child, 0)[1]


def main(folder: Path, stride: int) -> None:
    """Crash point after crash point, all or every `stride`-th, until the scenario outruns the killer."""
    os.fsync = lambda handle: None  # type: ignore[assignment]  # a killed process loses nothing that the kernel has
    for count in itertools.count():
        number = 1 + count * stride
        root = folder / str(number)
        root.mkdir()
        make_adapters(root)
        log = root / "log"

        def live_and_die(root: Path = root, log: Path = log, number: int = number) -> None:
            with log.open("w") as file:
                asyncio.run(run(root, number, lambda line: print(line, file=file, flush=True)))
                os._exit(0)

        status = forked(live_and_die)
        lines = log.read_text().splitlines()
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0

        def look(root: Path = root, lines: Sequence[str] = lines) -> None:
            asyncio.run(check(root, lines))

        assert forked(look) == 0, (number, lines)
        shutil.rmtree(root)
        if not os.WIFSIGNALED(status):
            assert len(lines) == 2 * len(SCENARIO)
            sys.stdout.write(str(count))
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
