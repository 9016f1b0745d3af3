from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ramole.client.client import RamoleClient
from ramole.client.upload import CHUNK_BYTES, upload_header, upload_messages
from ramole.core.errors import InvalidInput, NotFound, Unavailable
from support.gateway_world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.give("a", "b", "c", "d", "e")
    await world.start_neighbours()
    await world.start_gateway()
    yield world
    await world.stop()


async def test_listing_walks_all_pages(world: World) -> None:
    assert [record.ref.name async for record in world.client.adapters()] == ["a", "b", "c", "d", "e"]
    assert world.log.count("ListStored") == 3


async def test_one_adapter_with_everything_known(world: World) -> None:
    record = await world.client.get("default/b@1")
    assert str(record.ref) == "default/b@1"
    assert record.samples == ("sample of b",)
    with pytest.raises(NotFound) as caught:
        await world.client.get("nope")
    assert caught.value.field == "adapter"


async def test_a_folder_without_an_adapter_is_refused_before_anything_is_sent(world: World, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidInput, match="has no adapter_model") as caught:
        await world.client.upload(tmp_path, ["x"])
    assert caught.value.field == "folder"
    assert not world.log


async def test_an_upload_is_a_header_and_the_bytes_of_both_files_in_bounded_chunks(tmp_path: Path) -> None:
    config, tensors = b"{}", bytes(range(256)) * 10_000
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(tensors)
    made = await upload_header(tmp_path, adapter="t/n", samples=["x"], expected_version=0, is_public=True)
    messages = [message async for message in upload_messages(tmp_path, made)]
    header = messages[0].header
    assert (header.adapter, list(header.samples), header.is_public) == ("t/n", ["x"], True)
    assert header.HasField("expected_version")
    assert header.sha256 == {
        "adapter_config.json": hashlib.sha256(config).hexdigest(),
        "adapter_model.safetensors": hashlib.sha256(tensors).hexdigest(),
    }
    files: dict[str, bytes] = {}
    for message in messages[1:]:
        assert len(message.chunk.data) <= CHUNK_BYTES
        files[message.chunk.file] = files.get(message.chunk.file, b"") + message.chunk.data
    assert files == {"adapter_config.json": config, "adapter_model.safetensors": tensors}


async def test_an_upload_tells_how_far_it_is(world: World, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(b"{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(2 * CHUNK_BYTES + 5))
    told: list[tuple[int, int]] = []
    await world.client.upload(
        tmp_path, adapter="n", is_named_only=True, progress=lambda done, total: told.append((done, total))
    )
    total = 2 * CHUNK_BYTES + 7
    steps = (0, 2, CHUNK_BYTES + 2, 2 * CHUNK_BYTES + 2, total)
    assert told == [(done, total) for done in steps]
    assert world.adapters.headers[-1].is_named_only


async def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    async with RamoleClient("127.0.0.1:1", timeout_s=5, retries=0) as client:
        with pytest.raises(Unavailable) as caught:
            await client.describe()
        assert "address" in caught.value.remedy
