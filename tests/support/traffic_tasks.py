"""Adapters of the zoo as tasks of the traffic."""

from __future__ import annotations

from collections.abc import Sequence

from ramole.gateway.keys import KeyFile, Role
from ramole.lab.chaos.traffic import Task, Tenant
from ramole.zoo.catalog import Zoo, ZooAdapter


def tasks_of(adapters: Sequence[ZooAdapter]) -> tuple[Task, ...]:
    """Each with three of its test prompts."""
    return tuple(
        Task(adapter.name, adapter.path, adapter.samples, tuple(example.prompt for example in adapter.prompts[:3]))
        for adapter in adapters
    )


def two_tenants(zoo: Zoo, keys: KeyFile) -> tuple[Tenant, ...]:
    """``ann`` and ``bob``, publishers with three adapters each, none of which the other has."""
    half = len(zoo.adapters) // 2
    return tuple(
        Tenant(name, keys.add(name, name, Role.PUBLISHER)[1], tasks_of(adapters))
        for name, adapters in (("ann", zoo.adapters[:3]), ("bob", zoo.adapters[half : half + 3]))
    )
