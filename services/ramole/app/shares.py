"""What a service is given of the settings: its own section, what all share, and the few others that it reads.

A cluster replaces the replicas of an application whose settings change. One that is not given what it does not read
stays: a change of the engine does not end the one writer of the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

SHARED = ("data_dir", "base_model", "base_id", "base_revision", "internal", "logging", "metrics", "tracing")
"""What every service reads."""

Model = TypeVar("Model", bound=BaseModel)


def share(given: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Of settings as people write them, those at or below `paths`, such as ``cache`` or ``executor.slot_rank``."""
    found: dict[str, Any] = {}
    for name, below in _by_name(paths).items():
        if name not in given:
            continue
        if "" in below:
            found[name] = given[name]
        elif isinstance(given[name], Mapping) and (part := share(given[name], below)):
            found[name] = part
    # In the order of what was given, whatever the order of the paths.
    return {name: found[name] for name in given if name in found}


def narrowed(settings: Model, paths: Iterable[str]) -> Model:
    """A copy that has nothing but what is at or below `paths`: reading anything else raises AttributeError."""
    copy = settings.model_copy()
    wanted = _by_name(paths)
    for name, value in settings.__dict__.items():
        if name not in wanted:
            del copy.__dict__[name]
        elif "" not in wanted[name]:
            copy.__dict__[name] = narrowed(value, wanted[name])
    return copy


def _by_name(paths: Iterable[str]) -> dict[str, set[str]]:
    """What comes after each first name; '' = all of it."""
    found: dict[str, set[str]] = {}
    for path in paths:
        name, _, below = path.partition(".")
        found.setdefault(name, set()).add(below)
    return found
