from __future__ import annotations

import asyncio

import pytest

from ramole.core.call import CallContext, call_scope, current_call, entered_call
from ramole.core.errors import Unavailable
from ramole.transport.picker import DirectoryPicker, StaticPicker


def test_the_budget_is_the_smaller_of_limit_and_rest() -> None:
    assert CallContext.begin().budget_s(None) is None
    assert CallContext.begin().budget_s(3.0) == 3.0
    assert CallContext.begin(timeout_s=100.0).budget_s(3.0) == 3.0
    left = CallContext.begin(timeout_s=2.0).budget_s(3.0)
    assert left is not None
    assert left <= 2.0
    assert CallContext("x", deadline=0.0).remaining_s() == 0.0


async def test_a_call_is_current_in_its_own_task_only() -> None:
    async def inner() -> str:
        with call_scope(CallContext.begin("inner")):
            await asyncio.sleep(0)
            return current_call().request_id

    with call_scope(CallContext.begin("outer")):
        assert await asyncio.gather(*(asyncio.create_task(inner()) for _ in range(3))) == ["inner"] * 3
        assert current_call().request_id == "outer"
    assert current_call().request_id != "outer"
    assert entered_call() is None


async def test_a_static_picker_always_gives_its_address() -> None:
    picker = StaticPicker("h:1")
    async with picker.pick(["a"]) as address:
        assert address == "h:1"
    assert await picker.everyone() == ("h:1",)


async def test_a_directory_picker_knows_a_server_once_it_serves() -> None:
    directory: dict[str, str] = {}
    picker = DirectoryPicker(directory, "adapters")
    with pytest.raises(Unavailable, match="adapters"):
        await picker.everyone()
    directory["adapters"] = "h:1"
    async with picker.pick() as address:
        assert address == "h:1"
