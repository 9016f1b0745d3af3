"""How many positions a base model knows, without its answer to one request depending on another's length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MOVING = ("longrope", "dynamic")


def has_moving_rope(config: Any) -> bool:
    """Whether angles are chosen anew at each step by the longest sequence in it: of the whole batch, that is."""
    return any(rope.get("rope_type") in _MOVING for rope in _ropes(config))


def max_positions(config: Any) -> int | None:
    """Of a text config; None = any number. Where the angles would move, as far as they do not."""
    known: int | None = getattr(config, "max_position_embeddings", None)
    if not has_moving_rope(config):
        return known
    ends = [rope.get("original_max_position_embeddings") for rope in _ropes(config)]
    ends += [getattr(config, "original_max_position_embeddings", None), known]
    return min(int(end) for end in ends if end)


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """One, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in found:
        yield found
    else:
        yield from (rope for rope in found.values() if isinstance(rope, Mapping))
