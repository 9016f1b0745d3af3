"""Consistent hashing: every key has an order of replicas that is the same for every caller, without shared state.

When a replica leaves, only the keys whose first one it was get another first one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator

_POINTS = 64
"""Of each replica, in eight hashes. Shares differ by an eighth or so; bounded loads level that out."""


class Ring:
    """The places of some replicas on a circle of 64-bit numbers."""

    def __init__(self, replicas: Iterable[str]) -> None:
        points = sorted((point, replica) for replica in replicas for point in _points(replica))
        self._points = [point for point, _ in points]
        self._replicas = [replica for _, replica in points]
        self._size = len(self._points) // _POINTS

    def order(self, key: str) -> Iterator[str]:
        """All replicas, each once, as the circle meets them from the key on."""
        start = bisect_right(self._points, _hash(key))
        seen: set[str] = set()
        for i in range(len(self._replicas)):
            replica = self._replicas[(start + i) % len(self._replicas)]
            if replica not in seen:
                seen.add(replica)
                yield replica
                if len(seen) == self._size:
                    return


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _points(replica: str) -> Iterator[int]:
    for number in range(_POINTS // 8):
        digest = hashlib.blake2b(f"{replica}/{number}".encode()).digest()
        for i in range(0, 64, 8):
            yield int.from_bytes(digest[i : i + 8], "big")
