"""Adapters of the zoo as tasks of the traffic."""

from __future__ import annotations

from collections.abc import Sequence

from ramole.lab.chaos.traffic import Task
from ramole.zoo.catalog import ZooAdapter


def tasks_of(adapters: Sequence[ZooAdapter]) -> tuple[Task, ...]:
    """Each with three of its test prompts."""
    return tuple(
        Task(adapter.name, adapter.path, adapter.samples, tuple(example.prompt for example in adapter.prompts[:3]))
        for adapter in adapters
    )
