"""Policy: in which order those who wait come up, so that no tenant's crowd delays another tenant's one request.

Every tenant has a counter of the service that it got: tokens computed for it, and adapters loaded, in tokens. Next
comes the oldest request of the tenant that got least, for its weight, those first that go on with an answer. Who comes
back after a pause has saved nothing: the counter begins at the least of those who wait; and when nobody waits, nobody
owes anything (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). One tenant
alone is served in order of arrival.

Those who ran already and were put back have had their turn: they come before all others, whoever they are.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import takewhile

from ramole.executor.sequence import Sequence

BYTES_PER_TOKEN = 64 * 2**10
"""An adapter's bytes that cost as much to bring to the device as one token costs to compute, by order of magnitude."""


class FairQueue:
    """Sequences that wait, by tenant.

    Args:
        weights: share of each tenant beside the others; 1 where none is given.

    Attributes:
        num_tokens: that those who wait may come to, prompts included.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._waiting: dict[str, deque[Sequence]] = {}
        self._returned: list[Sequence] = []
        self._served: dict[str, float] = {}
        self._floor = 0.0
        self._length = 0
        self.num_tokens = 0

    def __len__(self) -> int:
        return self._length

    @property
    def by_tenant(self) -> dict[str, int]:
        """How many of each wait. Callable from any thread."""
        waiting = Counter({tenant: len(queue) for tenant, queue in list(self._waiting.items())})
        waiting.update(sequence.tenant for sequence in tuple(self._returned))
        return waiting

    def __iter__(self) -> Iterator[Sequence]:
        """In the order in which they come up if each costs its prompt. The queue may change meanwhile."""
        yield from tuple(self._returned)
        queues = {tenant: iter(tuple(queue)) for tenant, queue in self._waiting.items()}
        # The place breaks ties: who waits longer comes first.
        heap = [(self._served[tenant], place, tenant) for place, tenant in enumerate(queues)]
        heapq.heapify(heap)
        while heap:
            served, place, tenant = heapq.heappop(heap)
            sequence = next(queues[tenant], None)
            if sequence is not None:
                yield sequence
                cost = len(sequence.prompt) / self._weights.get(tenant, 1.0)
                heapq.heappush(heap, (served + cost, place, tenant))

    def add(self, sequence: Sequence) -> None:
        """Queues an arrival."""
        tenant = sequence.tenant
        if tenant not in self._waiting:
            if self._waiting:
                self._rise()
            self._waiting[tenant] = deque()
            self._served[tenant] = max(self._served.get(tenant, 0.0), self._floor)
        queue = self._waiting[tenant]
        if sequence.goes_first:
            queue.insert(sum(1 for _ in takewhile(lambda each: each.goes_first, queue)), sequence)
        else:
            queue.append(sequence)
        self._length += 1
        self.num_tokens += sequence.max_length

    def put_back(self, sequence: Sequence) -> None:
        """Queues one that ran before everybody else: first those that hold slots, the first admitted first."""
        # One that needs slots must not keep out another that has them: they might be the same.
        insort(self._returned, sequence, key=lambda each: (each.mixture is None, each.turn or 0))
        self._length += 1
        self.num_tokens += sequence.max_length

    def remove(self, sequence: Sequence) -> None:
        """Takes one out, wherever it stands. Raises ValueError if it does not wait."""
        if sequence in self._returned:
            self._returned.remove(sequence)
        else:
            queue = self._waiting.get(sequence.tenant, deque())
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.tenant]
                self._rise()
        self._length -= 1
        self.num_tokens -= sequence.max_length

    def charge(self, tenant: str, num_tokens: float) -> None:
        """Counts service that a tenant gets."""
        self._served[tenant] = self._served.get(tenant, self._floor) + num_tokens / self._weights.get(tenant, 1.0)

    def _rise(self) -> None:
        """The floor follows those who wait, and what lies below it is forgotten: it would be lifted anyway."""
        if not self._waiting:
            self._floor, self._served = 0.0, {}
            return
        self._floor = max(self._floor, min(self._served[tenant] for tenant in self._waiting))
        self._served = {
            tenant: served for tenant, served in self._served.items() if served > self._floor or tenant in self._waiting
        }
