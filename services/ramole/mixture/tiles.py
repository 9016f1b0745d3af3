"""Cuts a step into tiles for a GPU: up to a block of tokens that all use the same slots. Ints, no tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramole.mixture.plan import StepPlan

NARROW, WIDE = 16, 64
"""Tokens of a tile: the least that a matrix unit takes, for decode; enough to read an adapter rarely, for prefill."""

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiles:
    """n tiles of one width.

    Attributes:
        tokens: packed index of each token, -1 = none, [n, width].
        slots: what all tokens of a tile use, in this order, [n, k].
    """

    tokens: Int32Array
    slots: Int32Array


def cut_tiles(plan: StepPlan) -> tuple[Tiles, Tiles]:
    """The narrow and the wide tiles of a step.

    How wide the tiles of a request are depends on its own segment only, so that its numbers do not depend on what else
    is in the batch. Requests with the same slots in the same order share tiles: each tile reads its adapters once.
    Tokens without experts are in no tile.
    """
    groups: dict[tuple[bool, tuple[int, ...]], list[int]] = {}
    for (start, stop), slots in zip(plan.segments, plan.slots.tolist(), strict=True):
        if any(slots):
            groups.setdefault((stop - start > NARROW, tuple(slots)), []).extend(range(start, stop))
    narrow, wide = (
        _tiles([(tokens, slots) for (wide_, slots), tokens in groups.items() if wide_ is is_wide], width, plan)
        for is_wide, width in ((False, NARROW), (True, WIDE))
    )
    return narrow, wide


def _tiles(groups: list[tuple[list[int], tuple[int, ...]]], width: int, plan: StepPlan) -> Tiles:
    pieces = [(tokens[at : at + width], slots) for tokens, slots in groups for at in range(0, len(tokens), width)]
    out = Tiles(np.full((len(pieces), width), -1, np.int32), np.zeros((len(pieces), plan.slots.shape[1]), np.int32))
    for i, (tokens, slots) in enumerate(pieces):
        out.tokens[i, : len(tokens)] = tokens
        out.slots[i] = slots
    return out
