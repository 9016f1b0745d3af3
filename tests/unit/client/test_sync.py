"""The synchronous client: the asynchronous one without await, also in a notebook, among threads and under Ctrl-C."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import pytest

from ramole.client import Chunk, RamoleClient, Routing, SyncRamoleClient, Usage
from ramole.core.errors import Cancelled, InvalidInput, NotFound, WrongState
from support.world_thread import WorldThread, world_thread

CALLS = sorted(name for name, member in vars(RamoleClient).items() if inspect.isfunction(member) and name[0] != "_")


@pytest.fixture(scope="module")
def shared() -> Iterator[WorldThread]:
    with world_thread() as thread:
        yield thread


@pytest.fixture
def world(shared: WorldThread) -> WorldThread:
    shared.world.log.clear()
    shared.world.executor.gates.clear()
    shared.world.executor.entered.clear()
    return shared


@pytest.fixture
def client(world: WorldThread) -> Iterator[SyncRamoleClient]:
    with SyncRamoleClient(world.address, timeout_s=30) as client:
        yield client


def without_await(annotation: Any) -> str:
    """What the same call of the other client gives."""
    return str(annotation).replace("AsyncGenerator", "Generator")


@pytest.mark.parametrize("name", ["__init__", *CALLS])
def test_both_clients_have_the_same_calls(name: str) -> None:
    other, own = (inspect.signature(getattr(kind, name)) for kind in (RamoleClient, SyncRamoleClient))
    assert own.parameters == other.parameters
    assert str(own.return_annotation) == without_await(other.return_annotation)


@pytest.mark.parametrize("name", sorted({*CALLS} - {"close", "with_options"}))
def test_every_argument_is_handed_on(name: str, client: SyncRamoleClient) -> None:
    given: dict[str, Any] = {}

    class Recorder:
        def __getattr__(self, called: str) -> Any:
            assert called == name
            return give if inspect.isasyncgenfunction(getattr(RamoleClient, called)) else answer

    def give(*args: Any, **kwargs: Any) -> AsyncGenerator[str]:
        given.update(bound(*args, **kwargs))
        return one()

    async def answer(*args: Any, **kwargs: Any) -> str:
        given.update(bound(*args, **kwargs))
        return "answer"

    async def one() -> AsyncGenerator[str]:
        yield "answer"

    def bound(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return inspect.signature(getattr(RamoleClient, name)).bind(None, *args, **kwargs).arguments

    other = client.with_options()
    other._client = Recorder()  # type: ignore[assignment]
    own = inspect.signature(getattr(other, name)).parameters.values()
    wanted = {each.name: object() for each in own}
    positional = [wanted[each.name] for each in own if each.kind is not each.KEYWORD_ONLY]
    named = {each.name: wanted[each.name] for each in own if each.kind is each.KEYWORD_ONLY}
    result = getattr(other, name)(*positional, **named)
    assert result == "answer" or list(result) == ["answer"]
    assert {key: value for key, value in given.items() if key != "self"} == wanted


async def test_it_works_where_a_loop_runs(client: SyncRamoleClient) -> None:
    """As in a notebook: this test's own loop stands still meanwhile."""
    events = list(client.generate("four words of text", adapters=["a"]))
    assert isinstance(events[0], Routing)
    assert isinstance(events[-1], Usage)
    assert "".join(event.text for event in events[1:-1] if isinstance(event, Chunk)) == "fourwordsoftext"
    assert client.complete("two words", adapters=["a"]).text == "twowords"
    assert [record.ref.name for record in client.adapters(page_size=1)] == ["a", "b", "c"]
    assert client.route("x").adapters
    assert client.describe().base_model


def test_errors_are_those_of_the_tree(client: SyncRamoleClient) -> None:
    with pytest.raises(NotFound) as missing:
        client.get("nobody")
    assert (missing.value.field, bool(missing.value.remedy)) == ("adapter", True)
    with pytest.raises(InvalidInput) as refused:
        next(client.generate(""))
    assert refused.value.field == "prompt"


def test_threads_share_it(client: SyncRamoleClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        prompts = [f"prompt number {n}" for n in range(64)]
        texts = list(pool.map(lambda prompt: client.complete(prompt, adapters=["a"]).text, prompts))
    assert texts == [prompt.replace(" ", "") for prompt in prompts]


@pytest.mark.parametrize("way", ["close", "drop", "leave"])
def test_a_stream_that_is_read_half_way_ends_on_the_server(world: WorldThread, way: str) -> None:
    world.gate("step")
    with SyncRamoleClient(world.address) as client:
        events = client.generate("some words", adapters=["a"])
        assert isinstance(next(events), Routing)
        assert isinstance(next(events), Chunk)
        assert world.world.executor.num_running == 1
        if way == "close":
            events.close()
        elif way == "drop":
            del events
        if way != "leave":
            world.until_idle()
            client.describe()
    world.until_idle()
    world.open("step")


@pytest.mark.parametrize("call", ["complete", "generate"])
def test_ctrl_c_cancels_the_call_on_the_server(world: WorldThread, client: SyncRamoleClient, call: str) -> None:
    world.gate("step")

    def interrupt() -> None:
        world.until("step")
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal does

    thread = Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(getattr(client, call)("some words", adapters=["a"]))
    thread.join()
    world.until_idle()
    world.open("step")
    assert client.describe().version


def test_closing_it_ends_the_calls_of_other_threads(world: WorldThread) -> None:
    world.gate("Execute")
    client = SyncRamoleClient(world.address)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.complete, "x", adapters=["a"])
        world.until("Execute")
        client.close()
        with pytest.raises(Cancelled):
            running.result(20)
    world.until_idle()
    world.open("Execute")
    client.close()
    with pytest.raises(WrongState, match="closed"):
        client.describe()
    with pytest.raises(WrongState, match="closed"):
        list(client.generate("x"))


FORKED = """
import os, sys
from ramole import SyncRamoleClient, WrongState

client = SyncRamoleClient(sys.argv[1])
if os.fork() == 0:
    try:
        client.describe()
    except WrongState as error:
        print("child:", error.remedy, flush=True)
    client.close()
    os._exit(0)
os.wait()
print("parent:", client.describe().base_model)
client.close()
"""


def test_a_fork_is_told_to_make_its_own(world: WorldThread) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, world.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "child: make one after the fork\nparent: zoo/base\n", done.stderr


def test_an_abandoned_client_holds_up_no_exit(world: WorldThread) -> None:
    code = "import sys, ramole; client = ramole.SyncRamoleClient(sys.argv[1]); print(client.describe().base_model)"
    done = subprocess.run(
        [sys.executable, "-c", code, world.address], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "zoo/base\n"
