"""What goes into the index and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from ramole.core.names import AdapterRef


@dataclass(frozen=True, slots=True)
class Row:
    """One findable adapter version.

    Attributes:
        base_model: id of the only base model that it fits.
        is_public: whether tenants other than its owner may find it.
        tags: what searches may filter by.
    """

    ref: AdapterRef
    base_model: str
    is_public: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A row to index, with one vector ``[dim]`` for each of its samples. A version's samples never change."""

    row: Row
    samples: Sequence[ArrayLike]


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search. `similarity` is the score of the adapter, a cosine in [-1, 1]; see `ranking`."""

    ref: AdapterRef
    similarity: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        hits: best first.
        doubt: how likely it is that none of the adapters was made for the prompt, in [0, 1]; None = cannot be told.
        is_of_few: whether that is the doubt of few adapters (`few.py`), not one learned from this repository.
    """

    hits: list[Hit]
    doubt: float | None = None
    is_of_few: bool = False
