from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.gateway_world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Adapters a, b, c and d are live and findable."""
    world = World()
    world.give("a", "b", "c", "d")
    await world.start_neighbours()
    await world.start_gateway()
    yield world
    await world.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something that looks like an adapter."""
    path = tmp_path / "mine"
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(b"x" * 3_000_000)
    return path
