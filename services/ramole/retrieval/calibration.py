"""Doubt of the repository that serves, learned from its own rows; see `doubt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ramole.core.names import AdapterRef
from ramole.retrieval.doubt import MIN_ADAPTERS, NUM_NEAREST, NUM_SAMPLES, Doubt, Profile, asked, profiles
from ramole.retrieval.few import OwnScores
from ramole.retrieval.filters import visible_to
from ramole.retrieval.generations import IndexGeneration
from ramole.retrieval.rows import Rows
from ramole.retrieval.search import Search
from ramole.retrieval.values import Hit, Row

_MAX_OWN = 4096
"""Adapters whose own scores are kept."""
_STALE = 0.1
"""The share of adapters that may come or go before doubt is learned anew."""


@dataclass(frozen=True, slots=True)
class _Learned:
    """From how many adapters of what; `doubt` is None where none of them has samples enough."""

    generation: IndexGeneration
    base_model: str
    size: int
    doubt: Doubt | None

    def is_of(self, generation: IndexGeneration, base_model: str) -> bool:
        return (self.generation, self.base_model) == (generation, base_model)


class Calibration:
    """Knows the doubt of one generation and base model at most. `learn` raises MilvusException when Milvus fails.

    Args:
        is_sole_writer: nobody else changes the rows. Then they are only counted when `changed` says that it is time:
            the embedded engine takes .1 s for each thousand, which requests would feel.

    Attributes:
        num_adapters: how many there were when `learn` last looked.
    """

    def __init__(self, rows: Rows, search: Search, *, is_sole_writer: bool) -> None:
        self._is_sole_writer = is_sole_writer
        self._counted: tuple[IndexGeneration, str] | None = None
        self._num_changes = 0
        self._rows = rows
        self._search = search
        self._own = lru_cache(_MAX_OWN)(self._read_own)
        self._learned: _Learned | None = None  # replaced as a whole: searches read it at any time
        self.num_adapters = 0

    def doubt(self, generation: IndexGeneration, base_model: str, hits: Sequence[Hit]) -> tuple[float | None, bool]:
        """Of the NUM_NEAREST adapters that a search has found, and whether it is that of few; None = it cannot be told.

        Reads the samples of an adapter that is nearest for the first time, where adapters are few.
        """
        learned = self._learned
        if learned is not None and learned.doubt is not None and learned.is_of(generation, base_model):
            doubt = learned.doubt([hit.similarity for hit in hits])
            if doubt is not None:
                return doubt, False
        return self._doubt_of_few(generation, base_model, hits), True

    def _doubt_of_few(self, generation: IndexGeneration, base_model: str, hits: Sequence[Hit]) -> float | None:
        is_counted = self._counted == (generation, base_model)
        # To find one adapter's samples among many takes the embedded engine seconds.
        is_slow = self._is_sole_writer and not (is_counted and self.num_adapters < MIN_ADAPTERS)
        if not hits or is_slow:
            return None
        try:
            own = self._own(generation, hits[0].ref)
        except LookupError:
            return None
        size = max(len(hits), self.num_adapters) if is_counted and len(hits) == NUM_NEAREST else len(hits)
        return None if own is None else own.doubt(hits[0].similarity, size)

    def _read_own(self, generation: IndexGeneration, ref: AdapterRef) -> OwnScores | None:
        samples = self._rows.samples(generation, ref)
        if not len(samples):  # deleted meanwhile, or not to be seen yet: not to be remembered
            raise LookupError(str(ref))
        return OwnScores.of(samples, self._search.best_of)

    def changed(self, num_adapters: int) -> None:
        """So many adapters at most have come or gone."""
        self._num_changes += num_adapters

    def learn(self, generation: IndexGeneration, base_model: str) -> bool:
        """Learns anew if enough has changed since. Returns whether it did."""
        is_counted = self._is_sole_writer and self._counted == (generation, base_model)
        if is_counted and self._num_changes <= (_STALE * self.num_adapters if self._learned is not None else 0):
            return False
        learned, num_changes = self._learned, self._num_changes
        size = self.num_adapters = self._rows.count(generation, base_model)
        known = learned.size if learned is not None and learned.is_of(generation, base_model) else 0
        is_due = size >= MIN_ADAPTERS and abs(size - known) > _STALE * known
        has_learned = is_due and self._learn(generation, base_model, size)
        self._num_changes -= num_changes
        self._counted = generation, base_model
        return has_learned

    def _learn(self, generation: IndexGeneration, base_model: str, size: int) -> bool:
        rows = [row for batch in self._rows.listed(generation) for row in batch if row.base_model == base_model]
        rows.sort(key=lambda row: str(row.ref))  # the same, whatever order they came in
        doubt = Doubt.learn(pair for row in asked(rows) for pair in self._profiles(generation, row))
        self._learned = _Learned(generation, base_model, size, doubt)
        return doubt is not None

    def _profiles(self, generation: IndexGeneration, row: Row) -> list[Profile]:
        samples = self._rows.samples(generation, row.ref)
        if len(samples) < 2:
            return []
        visible = visible_to(row.ref.tenant, row.base_model)
        found = self._search.nearest(generation, samples[:NUM_SAMPLES], visible, NUM_NEAREST + 1)
        own = row.ref.tenant, row.ref.name
        others = [[hit.similarity for hit in hits if (hit.ref.tenant, hit.ref.name) != own] for hits in found]
        return profiles(samples, others, best_of=self._search.best_of)
