"""The whole chain on a very small world: every stage runs, and none runs twice without need."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ramole.core.errors import WrongState
from ramole.training.router import RouterRecipe
from ramole.zoo.adapters import AdapterRecipe
from ramole.zoo.base import BaseRecipe, Phase
from ramole.zoo.build import ZooRecipe, build
from ramole.zoo.catalog import load_zoo
from ramole.zoo.manifest import Manifest
from ramole.zoo.retrieval import FloatArray
from ramole.zoo.tasks import TASKS

NAMES = ("hotel-sentiment", "fruit-first", "car-csv", "country-currency")
RECIPE = ZooRecipe(
    tasks=tuple(task for task in TASKS if task.name in NAMES),
    base=BaseRecipe(
        hidden=32, layers=1, heads=2, kv_heads=1, intermediate=48, batch=4, phases=(Phase(4, 0.8, 0.3, (3e-3, 1e-3)),)
    ),
    adapters=(
        AdapterRecipe(4, 8, ("q_proj", "v_proj"), 5e-3, steps=2, batch=2),
        AdapterRecipe(2, 2, ("q_proj", "down_proj"), 5e-3, uses_rslora=True, steps=2, batch=2),
    ),
    router=RouterRecipe(steps=2, num_groups=2, group_size=2),
    router_rank=2,
)


def bag_of_words(texts: Sequence[str]) -> FloatArray:
    """A sentence encoder that needs no model: hashed word counts."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in text.split():
            row[zlib.crc32(word.encode()) % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def run(folder: Path, seed: int = 0) -> list[str]:
    """Builds and returns the stages that ran."""
    log: list[tuple[str, float]] = []
    build(
        folder,
        seed=seed,
        recipe=RECIPE,
        encode_texts=bag_of_words,
        log=lambda stage, fraction: log.append((stage, fraction)),
    )
    assert all(0 <= fraction <= 1 for _, fraction in log)
    return list(dict.fromkeys(stage for stage, _ in log))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo")
    stages = run(path)
    assert stages == ["base", *(f"adapters/{task.name}" for task in RECIPE.tasks), "router"]
    return path


def test_the_result_is_a_zoo(folder: Path) -> None:
    zoo = load_zoo(folder)
    assert {adapter.name for adapter in zoo.adapters} == set(NAMES)
    assert [adapter.name for adapter in zoo.adapters if adapter.is_held_out] == ["country-currency"]
    figures = Manifest.read(folder).figures("router")
    assert {"selection", "mixture", "fusion", "ramole", "ramole_prior tau=0.05"} <= set(figures)
    assert set(figures["selection"]) == {"all", "seen", "held_out"}


def test_a_finished_zoo_is_left_alone(folder: Path) -> None:
    assert run(folder) == []


def test_a_lost_adapter_is_made_again_with_the_router_that_knew_it(folder: Path) -> None:
    (folder / "adapters/fruit-first/adapter_model.safetensors").unlink()
    assert run(folder) == ["adapters/fruit-first", "router"]
    assert [adapter.name for adapter in load_zoo(folder).adapters] == [task.name for task in RECIPE.tasks]


def test_adapters_repeat_with_the_seed(folder: Path) -> None:
    path = folder / "adapters/fruit-first/adapter_model.safetensors"
    before = path.read_bytes()
    path.unlink()
    run(folder)
    assert path.read_bytes() == before


def test_another_seed_needs_another_folder(folder: Path) -> None:
    with pytest.raises(WrongState, match="another seed"):
        run(folder, seed=1)
