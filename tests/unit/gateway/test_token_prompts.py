"""Prompts of tokens: used as they are; retrieval reads what they say."""

from __future__ import annotations

import pytest

from ramole.client import Request
from ramole.core.chat import Message
from ramole.core.composition import Composition
from ramole.core.errors import InvalidInput
from support.gateway_world import World


async def test_the_tokens_go_to_the_executor_and_their_text_to_retrieval(world: World) -> None:
    answer = await world.client.complete(token_ids=[5, 0, 7])
    assert answer.text == "w5w0w7"
    [request] = world.executor.requests
    assert (request.prompt, list(request.prompt_token_ids)) == ("", [5, 0, 7])
    assert world.embedding.texts == ["w5 w7"]
    assert [each.ref.name for each in answer.routing.adapters] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "request_",
    [
        Request(token_ids=[0], query="what"),
        Request(token_ids=[0], adapters=["a"]),
        Request(token_ids=[0], composition=Composition(k=0)),
    ],
)
async def test_nobody_reads_them_where_retrieval_does_not(world: World, request_: Request) -> None:
    [*_] = [event async for event in world.client.generate_batch([request_])]
    assert "Detokenize" not in world.log
    assert "Execute" in world.log


async def test_tokens_that_say_nothing_find_nothing(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.client.complete(token_ids=[0, 0])
    assert (caught.value.field, "query" in caught.value.remedy) == ("prompt_token_ids", True)


async def test_an_unknown_token_is_named(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.client.complete(token_ids=[1, 2, 100])
    assert caught.value.field == "prompt_token_ids[2]"
    assert "Execute" not in world.log


async def test_prompt_messages_and_tokens_exclude_each_other(world: World) -> None:
    for mixed in (
        Request("x", token_ids=[1]),
        Request(messages=[Message("user", "x")], token_ids=[1]),
        Request("x", messages=[Message("user", "x")]),
    ):
        [(_, error)] = [event async for event in world.client.generate_batch([mixed])]
        assert isinstance(error, InvalidInput), mixed
    assert "Execute" not in world.log
