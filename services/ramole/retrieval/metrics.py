"""What retrieval counts: what searches find, and how many adapters they could find."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from ramole.observability.specs import SHARES, CounterSpec, GaugeSpec, HistogramSpec
from ramole.retrieval.values import Found

SEARCHES = CounterSpec("ramole_searches", "Searches, by whether any adapter was found.", ("result",))
SIMILARITY = HistogramSpec(
    "ramole_retrieval_similarity", "Similarity of the nearest adapter of each search.", buckets=SHARES
)
DOUBT = HistogramSpec(
    "ramole_retrieval_doubt",
    "How likely it is that no adapter was made for the prompt, of each search.",
    buckets=SHARES,
)
INDEX_ROWS = GaugeSpec(
    "ramole_index_rows", "Adapters that searches can find, as counted once in a while; -1 = not counted yet."
)
INDEX_UP = GaugeSpec("ramole_index_up", "1 while the index is open.")


class RetrievalMetrics:
    """Counts of one replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._searches = SEARCHES.on(registry)
        self._similarity = SIMILARITY.on(registry)
        self._doubt = DOUBT.on(registry)
        self._rows = INDEX_ROWS.on(registry)
        self._rows.set(-1)
        for result in ("found", "empty"):
            self._searches.labels(result)
        self.is_up = INDEX_UP.on(registry)

    def searched(self, found: Found) -> None:
        """One search has ended."""
        self._searches.labels("found" if found.hits else "empty").inc()
        if found.hits:
            self._similarity.observe(found.hits[0].similarity)
        if found.doubt is not None:
            self._doubt.observe(found.doubt)

    def counted(self, num_rows: int) -> None:
        """There are so many adapters in the index."""
        self._rows.set(num_rows)
