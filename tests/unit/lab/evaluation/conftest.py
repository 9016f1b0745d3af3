"""Six adapters of the shipped zoo, laid out as a user's own folder, and their bench."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ramole.lab.evaluation.evaluate import Bench, Plan
from ramole.lab.evaluation.methods import Budget
from ramole.lab.evaluation.subject import Subject, folder_subject
from ramole.zoo.catalog import Zoo, load_zoo

NUM_ADAPTERS = 6


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return load_zoo()


@pytest.fixture(scope="session")
def adapters(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for adapter in zoo.adapters[:NUM_ADAPTERS]:
        (folder / adapter.name).symlink_to(adapter.path, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def subject(zoo: Zoo, adapters: Path) -> Subject:
    found = folder_subject(zoo.base_path, adapters, routers=[zoo.router_path])
    entries = tuple(replace(entry, is_trained=i < NUM_ADAPTERS - 2) for i, entry in enumerate(found.entries))
    return replace(found, entries=entries)


@pytest.fixture
def bench(subject: Subject) -> Bench:
    return Bench.load(subject, Plan(prompts_per_task=4, budget=Budget(seeds=2, gate_steps=2, hub_rounds=2)))
