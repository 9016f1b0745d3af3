"""Odd requests, uploads, removals and cancellations at the public port, beside bystanders who must not notice.

`make fuzz MINUTES=10` goes on for as long as it is told to, and says how many requests the server has survived; without
that this is a short run.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from math import isclose, isfinite
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from fuzz.odd_requests import bystander, odd_request
from ramole.client.client import RamoleClient
from ramole.core.errors import NotFound, WrongState
from ramole.v1 import gateway_pb2, gateway_pb2_grpc
from ramole.zoo.catalog import Zoo, load_zoo
from support.server_process import ServerProcess

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
SEED = int(os.environ.get("FUZZ_SEED", time.time_ns()))
BURST = 48
WAVES = 5 if MINUTES else 1
PATIENCE_S = 120.0
FINE = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "CANCELLED")

Answer = tuple[str, tuple[int, ...], tuple[float, ...]]


class Door:
    """The public port of a real server, and what has come of all requests to it."""

    def __init__(self, server: ServerProcess, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.statuses: Counter[str] = Counter()
        self.num_bystanders = 0
        self.zoo: Zoo = load_zoo()
        self.kept = [f"kept-{i}" for i in range(6)]
        self.victims: list[str] = []
        self.num_uploads = 0
        self._chance = random.Random(SEED)
        self._server = server
        self.run(self._open())

    @property
    def summary(self) -> str:
        kinds = f"{self.num_bystanders} of bystanders, {self.num_uploads} uploads beside them"
        return f"{self.statuses.total()} requests survived, {kinds} (FUZZ_SEED={SEED}): {dict(self.statuses)}"

    def chance(self, seed: int) -> random.Random:
        """Hypothesis likes to begin with zeros, which a server that has a past need not see again."""
        return random.Random(seed ^ self._chance.getrandbits(64))

    def run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        return self._runner.run(bounded())

    def close(self) -> None:
        self.run(self._channel.close())
        self.run(self.client.__aexit__(None, None, None))

    async def _open(self) -> None:
        self.client = await RamoleClient(self._server.address, retries=0).__aenter__()
        self._channel = grpc.aio.insecure_channel(self._server.address)
        self._stub: Any = gateway_pb2_grpc.GatewayStub(self._channel)
        for i, name in enumerate(self.kept):
            await self.client.upload(self.zoo.adapters[i].path, self.zoo.adapters[i].samples, adapter=name)
        self.bystanders = [bystander(self.zoo.adapters[i % 6].prompts[i % 4].prompt, self.kept, i) for i in range(24)]
        self.alone = [await self.ask(request) for request in self.bystanders]
        assert all(isinstance(answer, tuple) for answer in self.alone), self.alone

    async def ask(
        self, request: gateway_pb2.GenerateRequest, leave_after: int | None = None
    ) -> Answer | grpc.StatusCode:
        """The whole answer, or the status of a refusal; `leave_after` so many messages the client goes away."""
        call = self._stub.Generate(request, timeout=PATIENCE_S / 2)
        text, tokens, logprobs, has_usage = "", [], [], False
        try:
            seen = 0
            async for event in call:
                text += event.chunk.text
                tokens += event.chunk.token_ids
                logprobs += event.chunk.logprobs
                has_usage = has_usage or event.HasField("usage")
                for adapter in event.usage.adapters:
                    assert isfinite(adapter.mean_weight), event
                seen += 1
                if leave_after is not None and seen > leave_after:
                    call.cancel()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            code = await call.code()
            self.statuses[code.name] += 1
            assert code.name in FINE, f"{code.name}: {await call.details()}\n{request}"
            return code
        self.statuses["OK"] += 1
        assert has_usage, request
        return text, tuple(tokens), tuple(logprobs)

    async def check(self, number: int) -> None:
        """A bystander's answer is what it is alone."""
        self.num_bystanders += 1
        answer, want = await self.ask(self.bystanders[number]), self.alone[number]
        assert isinstance(answer, tuple), f"bystander {number}: {answer}"
        assert answer[:2] == want[:2], f"bystander {number}"
        assert all(isclose(a, b, abs_tol=2e-3) for a, b in zip(answer[2], want[2], strict=True)), f"bystander {number}"


class PublicPort(RuleBasedStateMachine):
    """Anything that clients may do, in any order."""

    door: Door

    @initialize()
    def greet(self) -> None:
        self.door.run(self.door.check(0))

    @rule(seed=st.integers(0, 2**32 - 1))
    def burst(self, seed: int) -> None:
        """Odd requests and bystanders at once; some of the odd ones go away in the middle."""
        door, r = self.door, self.door.chance(seed)
        names = [*door.kept, *door.victims, "nobody"]

        async def all_at_once() -> None:
            work: list[Any] = []
            for _ in range(BURST):
                if r.random() < 0.25:
                    work.append(door.check(r.randrange(len(door.bystanders))))
                else:
                    work.append(door.ask(odd_request(r, names), r.randint(0, 3) if r.random() < 0.1 else None))
            await asyncio.gather(*work)

        for _ in range(WAVES):
            door.run(all_at_once())

    @rule(seed=st.integers(0, 2**32 - 1))
    def change(self, seed: int) -> None:
        """Adapters come and go under the requests that use them."""
        door, r = self.door, self.door.chance(seed)
        adapter = r.choice(door.zoo.adapters[6:])

        async def come() -> None:
            door.num_uploads += 1
            name = f"victim-{r.randrange(8)}"
            with suppress(WrongState):  # this content was revoked
                await door.client.upload(adapter.path, adapter.samples, adapter=name)
                door.victims.append(name)

        async def go() -> None:
            if not door.victims:
                return
            name = door.victims.pop(r.randrange(len(door.victims)))
            with suppress(NotFound):  # of two names of one content a revocation takes both
                await (door.client.revoke(name) if r.random() < 0.1 else door.client.delete(name))

        async def both() -> None:
            odd = (door.ask(odd_request(r, [*door.kept, *door.victims, "nobody"])) for _ in range(12))
            await asyncio.gather(come(), go(), *odd, *(door.check(i) for i in r.sample(range(24), 4)))

        door.run(both())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    server = ServerProcess(tmp_path_factory.mktemp("fuzz") / "data", "--local").wait_until_serving()
    with asyncio.Runner() as runner:
        door = Door(server, runner)
        yield door
        door.close()
    assert not server.stop()


def test_nobody_is_harmed(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    PublicPort.door = door
    ends = time.monotonic() + 60 * MINUTES
    while True:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            PublicPort,
            settings=settings(
                max_examples=6 if MINUTES else 2,
                stateful_step_count=12 if MINUTES else 6,
                deadline=None,
                phases=[Phase.generate],  # a server that has a past does not repeat itself
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
        with capsys.disabled():
            sys.stdout.write(f"\n{door.summary}\n")
        if time.monotonic() >= ends:
            return
