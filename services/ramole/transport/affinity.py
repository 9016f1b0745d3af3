"""Which executor replica should run a request: the one that holds its adapters, unless that one is too busy.

Pure: no ray, no clock of its own. `affinity_router.py` feeds it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One replica at the moment of choice.

    Attributes:
        replica: unique id.
        load: requests that it works on.
        resident: digests of the adapters it holds or will hold in a moment.
    """

    replica: str
    load: float = 0.0
    resident: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AffinityPolicy:
    """score = share of the wanted adapters that are resident + home bonus - load weight * (load - least load).

    Every set of adapters has a *home*: the replica that wins its rendezvous hash. Homes spread cold sets evenly, are
    the same for every caller without any shared state, and only the sets at home on a replica move when it goes away.

    Attributes:
        home_weight: worth of being home. Between 1/2 and 1 a set settles at home unless most of it is elsewhere.
        load_weight: worth of one request less.
        max_imbalance: a replica with that many requests more than the idlest is a last resort, whatever it holds.
    """

    home_weight: float = 0.6
    load_weight: float = 0.1
    max_imbalance: float = 8.0

    def rank(self, wanted: frozenset[str], candidates: Sequence[Candidate]) -> list[str]:
        """Ids of all candidates, best first. Deterministic: equal inputs in any order give the same answer."""
        if not candidates:
            return []
        least = min(candidate.load for candidate in candidates)
        affinity = {candidate.replica: _rendezvous(wanted, candidate.replica) for candidate in candidates}
        home = max(affinity, key=lambda replica: (affinity[replica], replica))

        def key(candidate: Candidate) -> tuple[bool, float, int, str]:
            excess = candidate.load - least
            share = len(wanted & candidate.resident) / len(wanted) if wanted else 0.0
            bonus = self.home_weight if candidate.replica == home else 0.0
            score = share + bonus - self.load_weight * excess
            return excess <= self.max_imbalance, score, affinity[candidate.replica], candidate.replica

        return [candidate.replica for candidate in sorted(candidates, key=key, reverse=True)]


def _rendezvous(wanted: frozenset[str], replica: str) -> int:
    text = "\n".join((replica, *sorted(wanted)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Ledger:
    """What this process sent where: fills the gap until the replicas' own reports catch up.

    Args:
        ttl_s: how long a replica is believed to hold what was sent to it; longer than the period of its reports.
        clock: seconds, monotonic.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._placed: dict[str, dict[str, float]] = {}
        self._inflight: dict[str, int] = {}
        # Routing runs on a thread of its own, tickets are given back on the caller's.
        self._lock = threading.Lock()

    def send(self, replica: str, digests: Iterable[str]) -> None:
        """A request with these adapters goes to `replica`."""
        expires = self._clock() + self._ttl_s
        with self._lock:
            self._inflight[replica] = self._inflight.get(replica, 0) + 1
            self._placed.setdefault(replica, {}).update(dict.fromkeys(digests, expires))

    def finish(self, replica: str) -> None:
        """One request that was sent to `replica` has ended."""
        with self._lock:
            if replica in self._inflight:
                self._inflight[replica] = max(0, self._inflight[replica] - 1)

    def inflight(self, replica: str) -> int:
        """Requests sent to `replica` that have not ended."""
        return self._inflight.get(replica, 0)

    def placed(self, replica: str) -> frozenset[str]:
        """Digests sent to `replica` lately."""
        now = self._clock()
        with self._lock:
            live = {digest: end for digest, end in self._placed.get(replica, {}).items() if end > now}
            if replica in self._placed:
                self._placed[replica] = live
        return frozenset(live)

    def keep(self, replicas: Iterable[str]) -> None:
        """Forgets every replica that is not among these."""
        alive = set(replicas)
        with self._lock:
            self._placed = {replica: placed for replica, placed in self._placed.items() if replica in alive}
            self._inflight = {replica: count for replica, count in self._inflight.items() if replica in alive}


class Ticket:
    """One pick: what the caller wants, which address has just failed it, and where the router sent it."""

    def __init__(self, wanted: Iterable[str], avoid: str = "") -> None:
        self.wanted = frozenset(wanted)
        self.avoid = avoid
        self._release: Callable[[], None] | None = None

    def assign(self, release: Callable[[], None]) -> None:
        """The router has chosen; `release` is called once, when the caller is done."""
        self.close()
        self._release = release

    def close(self) -> None:
        """The caller is done. Safe to call more than once."""
        release, self._release = self._release, None
        if release is not None:
            release()
