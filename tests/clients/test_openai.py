"""OpenAI's own Python client, synchronous and asynchronous: streams, errors, retries, and leaving half-way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from ramole.core.errors import LimitExceeded, Unavailable
from ramole.core.settings import HttpSettings, TenantLimitSettings
from ramole.gateway.keys import KeyFile, Role
from support.world_thread import WorldThread, world_thread

ASKED: dict[str, Any] = {"model": "a", "prompt": "two words", "temperature": 0}
TURNS: list[Any] = [{"role": "user", "content": "two words"}]


class Door:
    """A gateway with keys: an operator's, and one of a tenant that may run one request at once."""

    def __init__(self, world: WorldThread, key: str, tight: str) -> None:
        self.world = world
        self.key = key
        self.tight = tight


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    data = tmp_path_factory.mktemp("data")
    keys = KeyFile(data / "keys.json")
    _, key = keys.add("ops", "default", Role.ADMIN)
    _, tight = keys.add("tight", "tight", Role.USER)
    limits = {"tight": TenantLimitSettings(requests_in_flight=1)}
    with world_thread(data, http=HttpSettings(port=0), tenant_limits=limits) as world:
        yield Door(world, key, tight)


@pytest.fixture
def world(door: Door) -> WorldThread:
    door.world.world.log.clear()
    door.world.world.executor.gates.clear()
    door.world.world.executor.entered.clear()
    return door.world


@pytest.fixture
def ai(door: Door, world: WorldThread) -> Iterator[OpenAI]:
    with OpenAI(base_url=world.url, api_key=door.key, max_retries=0) as client:
        yield client


def test_answers_whole_and_streamed(ai: OpenAI) -> None:
    whole = ai.completions.create(**ASKED)
    assert whole.choices[0].text == "twowords"
    events = list(ai.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for event in events for choice in event.choices) == "twowords"
    assert events[-1].usage == whole.usage
    chat = ai.chat.completions.create(model="a", messages=TURNS)
    assert chat.choices[0].message.content == "twowords"
    pieces = [
        choice.delta.content or ""
        for event in ai.chat.completions.create(model="a", messages=TURNS, stream=True)
        for choice in event.choices
    ]
    assert "".join(pieces) == "twowords"
    assert {"auto", "zoo/base", "default/a"} <= {model.id for model in ai.models.list()}


async def test_the_asynchronous_client_does_the_same(door: Door, world: WorldThread) -> None:
    async with AsyncOpenAI(base_url=world.url, api_key=door.key, max_retries=0) as ai:
        assert (await ai.completions.create(**ASKED)).choices[0].text == "twowords"
        text = ""
        async for event in await ai.chat.completions.create(model="a", messages=TURNS, stream=True):
            text += "".join(choice.delta.content or "" for choice in event.choices)
        assert text == "twowords"
        with pytest.raises(openai.NotFoundError):
            await ai.completions.create(**ASKED | {"model": "nobody"})


def test_each_error_is_of_its_class(door: Door, world: WorldThread, ai: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        ai.completions.create(**ASKED | {"temperature": -1})
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        ai.completions.create(**ASKED | {"model": "nobody"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=world.url, api_key="rml-wrong", max_retries=0).models.list()
    world.world.executor.failures["Execute"] = [Unavailable("down")] * 4
    with pytest.raises(openai.InternalServerError) as down:
        ai.completions.create(**ASKED)
    assert down.value.status_code == 503
    world.world.executor.failures["Execute"].clear()
    world.gate("Execute")
    with pytest.raises(openai.APITimeoutError):
        ai.with_options(timeout=0.2).completions.create(**ASKED)
    world.until_idle()
    world.open("Execute")


def test_too_much_for_now_is_a_429_that_says_when(door: Door, world: WorldThread) -> None:
    world.gate("step")
    asked = ASKED | {"model": "zoo/base"}
    with OpenAI(base_url=world.url, api_key=door.tight, max_retries=0) as ai:
        first = ai.completions.create(**asked, stream=True)
        world.until("step")
        with pytest.raises(openai.RateLimitError) as busy:
            ai.completions.create(**asked)
        assert busy.value.response.headers["retry-after"] == "1"
        assert busy.value.response.headers["x-should-retry"] == "true"
        world.open("step")
        assert "".join(choice.text for event in first for choice in event.choices) == "twowords"


def test_it_retries_when_the_server_says_so(world: WorldThread, ai: OpenAI) -> None:
    world.world.executor.failures["Execute"] = [LimitExceeded("busy", retry_after_s=0.9)]
    began_s = time.monotonic()
    assert ai.with_options(max_retries=1).completions.create(**ASKED).choices[0].text == "twowords"
    assert time.monotonic() - began_s >= 0.95, "its own back-off begins with half a second"
    assert world.world.log.count("Execute") == 2


def test_it_does_not_retry_when_the_server_says_so(world: WorldThread, ai: OpenAI) -> None:
    final = Unavailable("it fails whoever runs it")
    final.is_final = True
    world.world.executor.failures["Execute"] = [final]
    with pytest.raises(openai.InternalServerError) as refused:
        ai.with_options(max_retries=3).completions.create(**ASKED)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert world.world.log.count("Execute") == 1


def test_a_stream_that_is_closed_ends_on_the_server(world: WorldThread, ai: OpenAI) -> None:
    world.gate("step")
    stream = ai.completions.create(**ASKED, stream=True)
    next(iter(stream))
    stream.close()
    world.until_idle()
    world.open("step")
