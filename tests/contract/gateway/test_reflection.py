"""A client that knows nothing but the address: what it says, it has learned from the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.gateway_world import BASE, World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.give("a", "b")
    await world.start_neighbours()
    await world.start_gateway()
    yield world
    await world.stop()


class Stranger:
    """Blocks, as most scripts do. Its messages are of a pool of its own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._learned = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._learned)

    def services(self) -> list[str]:
        return list(self._learned.get_services())

    def method(self, name: str) -> MethodDescriptor:
        method: MethodDescriptor = self._pool.FindServiceByName("ramole.v1.Gateway").methods_by_name[name]
        return method

    def ask(self, name: str, **fields: Any) -> Any:
        """The answer, or all of a stream."""
        method = self.method(name)
        kind = GetMessageClass(method.output_type)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call: Callable[..., Any] = make(
            f"/ramole.v1.Gateway/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kind.FromString,
        )
        answer = call(GetMessageClass(method.input_type)(**fields), timeout=20)
        return list(answer) if method.server_streaming else answer


@pytest.fixture
def stranger(world: World) -> Iterator[Stranger]:
    with grpc.insecure_channel(world.servers["gateway"].address) as channel:
        yield Stranger(channel)


async def test_it_finds_the_service_and_every_call(stranger: Stranger) -> None:
    def find() -> None:
        assert "ramole.v1.Gateway" in stranger.services()
        assert "grpc.health.v1.Health" in stranger.services()
        assert stranger.method("GenerateBatch").server_streaming
        assert "prompt_token_ids" in stranger.method("Generate").input_type.fields_by_name

    await asyncio.to_thread(find)


async def test_it_generates_completes_and_describes(stranger: Stranger) -> None:
    def talk() -> None:
        events = stranger.ask("Generate", prompt="one two", composition={"k": 1})
        assert [event.WhichOneof("event") for event in events] == ["routing", "chunk", "chunk", "usage"]
        assert [each.adapter.name for each in events[0].routing.adapters] == ["a"]
        whole = stranger.ask("Complete", request={"prompt_token_ids": [3, 4], "adapters": [{"adapter": "b"}]})
        assert whole.answer.text == "w3w4"
        assert [each.adapter.name for each in whole.usage.adapters] == ["b"]
        batch = stranger.ask("GenerateBatch", requests=[{"prompt": "one"}, {"prompt": ""}])
        assert {event.index for event in batch if event.WhichOneof("event") == "failure"} == {1}
        about = stranger.ask("Describe")
        assert (about.base_model, about.encoder_id, about.limits.max_batch_requests) == (BASE, "e", 64)

    await asyncio.to_thread(talk)


async def test_it_reads_a_refusal(stranger: Stranger) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(stranger.ask, "Complete")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert caught.value.details().startswith("prompt: ")  # type: ignore[attr-defined]
