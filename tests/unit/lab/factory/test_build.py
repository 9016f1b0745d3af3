"""The whole chain on a very small world: every stage runs, and none runs twice without need."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ramole.core.errors import WrongState
from ramole.lab.evaluation.evaluate import Bench, Plan
from ramole.lab.evaluation.subject import zoo_subject
from ramole.lab.evaluation.views import View
from ramole.lab.factory.adapters import AdapterRecipe
from ramole.lab.factory.base import BaseRecipe, Phase
from ramole.lab.factory.build import build
from ramole.lab.factory.recipes import PRESETS, ZooRecipe
from ramole.lab.factory.tasks import TASKS
from ramole.lab.memory_index import MemoryIndex, open_encoder
from ramole.lab.training.router import RouterRecipe
from ramole.zoo.catalog import Split, load_zoo
from ramole.zoo.manifest import Manifest

TASK_NAMES = ("hotel-sentiment", "hostel-sentiment", "hotel-stars", "fruits-first", "country-capital")
WORLD = tuple(task for task in TASKS if task.name in TASK_NAMES)
RECIPE = ZooRecipe(
    world=WORLD,
    tasks=WORLD,
    base=BaseRecipe(
        hidden=32, layers=1, heads=2, kv_heads=1, intermediate=48, batch=4, phases=(Phase(4, 0.8, 0.3, (3e-3, 1e-3)),)
    ),
    adapters=(
        AdapterRecipe(4, 8, ("q_proj", "v_proj"), 5e-3, steps=2, batch=2),
        AdapterRecipe(2, 2, ("q_proj", "down_proj"), 5e-3, uses_rslora=True, steps=2, batch=2),
    ),
    router=RouterRecipe(steps=2, k=2, num_groups=2, group_size=2),
    router_rank=2,
)


def bag_of_words(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A sentence encoder that needs no model: hashed word counts."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in text.split():
            row[zlib.crc32(word.encode()) % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def run(folder: Path, seed: int = 0, threads: int = 1) -> list[str]:
    """Builds and returns the stages that ran."""
    log: list[tuple[str, float]] = []
    build(
        folder,
        recipe=RECIPE,
        seed=seed,
        threads=threads,
        embed=bag_of_words,
        log=lambda stage, fraction: log.append((stage, fraction)),
    )
    assert all(0 <= fraction <= 1 for _, fraction in log)
    return list(dict.fromkeys(stage for stage, _ in log))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo")
    assert run(path) == ["base", "adapters", "router"]
    return path


def test_the_result_is_a_zoo(folder: Path) -> None:
    zoo = load_zoo(folder)
    assert tuple(adapter.name for adapter in zoo.adapters) == tuple(task.name for task in WORLD)
    tasks = {task.name: task for task in WORLD}
    for adapter in zoo.adapters:
        task, kind = tasks[adapter.name], RECIPE.adapter(tasks[adapter.name])
        assert (adapter.cluster, adapter.group, adapter.split) == (task.about.cluster, task.group, task.split)
        assert (adapter.rank, adapter.targets) == (kind.rank, kind.targets)
        assert (len(adapter.samples), len(adapter.train), len(adapter.dev), len(adapter.prompts)) == (20, 40, 8, 16)
    assert {pair.adapters for pair in zoo.pairs} == {
        ("hotel-sentiment", "hotel-stars"),
        ("hotel-stars", "hotel-sentiment"),
    }
    assert zoo.of(*Split) == zoo.adapters
    router = json.loads((zoo.router_path / "router.json").read_text())
    assert router["tasks"] == [adapter.name for adapter in zoo.of(Split.TRAIN)]
    assert router["base_sha256"] == Manifest.read(folder).stages["base"]["files"]["base/model.safetensors"]


def test_a_finished_zoo_is_left_alone(folder: Path) -> None:
    assert run(folder) == []


def test_a_lost_adapter_is_made_again_with_what_stands_on_it(folder: Path) -> None:
    name = WORLD[2].name
    path = folder / "adapters" / name / "adapter_model.safetensors"
    before = path.read_bytes()
    path.unlink()
    assert run(folder) == ["adapters", "router"]
    assert [adapter.name for adapter in load_zoo(folder).adapters] == [task.name for task in WORLD]
    assert path.read_bytes() == before


def test_a_damaged_router_is_made_again_as_it_was(folder: Path) -> None:
    path = folder / "router" / "adapter_model.safetensors"
    before = path.read_bytes()
    path.write_bytes(b"damaged")
    assert run(folder) == ["router"]
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_tiny_preset_is_a_world_where_adapters_matter(tmp_path: Path) -> None:
    zoo = build(tmp_path, recipe=PRESETS["tiny"], threads=2)
    bench = Bench.load(zoo_subject(zoo), Plan())
    index = MemoryIndex.build(open_encoder("minilm"), [adapter.samples for adapter in zoo.adapters])
    view = bench.view(index)

    def right(method: str, view: View) -> float:
        return float(bench.methods.run(method, view, 3, index.task_similarities())[0].right.mean())

    base = right("base", view)
    assert right("perfect", view) >= base + 0.3
    assert right("best_of_k", view.without_own()) > base


@pytest.mark.slow
def test_adapters_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    paths = sorted(folder.glob("adapters/*/*"))
    before = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.unlink()
    run(folder, threads=2)
    assert {path: path.read_bytes() for path in paths} == before


def test_another_seed_needs_another_folder(folder: Path) -> None:
    with pytest.raises(WrongState, match="another seed"):
        run(folder, seed=1)
