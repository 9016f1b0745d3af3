"""Which executor replica should run a request: one that holds its adapters and is not too busy.

Pure: no ray, no clock of its own. `affinity_router.py` feeds it on Ray, `ramole bench fleet` in a simulation.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ramole.transport.ring import Ring


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of itself, about once a second.

    Attributes:
        load: requests that it works on, for all callers; infinite once it has failed.
        resident: digests of the adapters on its device.
        capacity: requests that it can work on at once; 0 = unknown.
    """

    load: float = 0.0
    resident: frozenset[str] = frozenset()
    capacity: float = 0.0


@dataclass(frozen=True, slots=True)
class AffinityPolicy:
    """The best replica has the most of the wanted adapters; or is their home; or has less to do.

    A set of adapters is at home where its rarest one is: on the first replica of that one's order on the ring that is
    not too busy. So cold sets spread evenly, though they share an adapter, and a popular adapter gets as many homes as
    its requests fill, always the same ones. Every caller comes to the same, without shared state.

    Attributes:
        home: worth of being home, in parts of the set. Of three adapters, one elsewhere does not outweigh it, two do.
        load: worth of having nothing to do instead of the mean.
        bound: a replica is too busy with that many times the mean, one request more included.
        spare: but never with fewer requests than this above the mean,
        free: nor as long as it uses no more than this part of its capacity;
        full: always with more than this part of it, while others have less to do.
    """

    home: float = 0.4
    load: float = 0.6
    bound: float = 1.2
    spare: float = 1.0
    free: float = 0.25
    full: float = 0.85

    def most(self, mean: float, capacity: float) -> float:
        """Requests that a replica may come to have while others have less to do."""
        limit = max(mean * self.bound, mean + self.spare)
        if not capacity:
            return limit
        return max(min(limit, max(mean + self.spare, self.full * capacity)), self.free * capacity)


@dataclass(slots=True)
class _Replica:
    load: float = 0.0
    inflight: int = 0
    report: Report = field(default_factory=Report)


class Placement:
    """What one caller knows of all replicas: their reports, and what it has sent since. Chooses with that.

    A choice looks at those that hold something of what is wanted and at one home, not at all replicas.

    Args:
        ttl_s: how long a replica is believed to hold what was sent to it; longer than the period of its reports.
        clock: seconds, monotonic.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float], policy: AffinityPolicy | None = None) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._policy = policy or AffinityPolicy()
        self._replicas: dict[str, _Replica] = {}
        self._ring = Ring(())
        self._failed: set[str] = set()
        self._total = 0.0
        self._others = 1.0
        self._resident: dict[str, set[str]] = {}
        self._placed: dict[str, dict[str, float]] = {}
        self._sent: deque[tuple[float, str, str]] = deque()
        self._num_sent = 0
        # Routing runs on a thread of its own, requests end on the caller's.
        self._lock = threading.Lock()

    def update(self, reports: Mapping[str, Report]) -> None:
        """The replicas that there are, each with its newest report."""
        with self._lock:
            if reports.keys() != self._replicas.keys():
                self._ring = Ring(reports)
            for name in self._replicas.keys() - reports.keys():
                self._hear(name, Report())
                del self._replicas[name]
            for name, report in reports.items():
                known = self._replicas.setdefault(name, _Replica())
                if report is not known.report:
                    self._hear(name, report)
            self._failed = {name for name, report in reports.items() if report.load == math.inf}
            self._total = sum(replica.load for replica in self._replicas.values())
            own = sum(replica.inflight for replica in self._replicas.values())
            # What attracts this caller attracts the others as well, by as much as they have more to send.
            self._others = max(1.0, self._total / own) if own else 1.0

    def choose(self, wanted: Sequence[str], avoid: Collection[str] = ()) -> str:
        """The replica for a request; '' if there is none. Deterministic.

        Args:
            wanted: digests; of equally rare ones the first decides.
            avoid: replicas that are taken only if there are no others.
        """
        with self._lock:
            if not self._replicas:
                return ""
            self._forget(self._clock())
            policy, replicas = self._policy, self._replicas
            load_now = self._total / len(replicas) + 1
            last = self._failed.union(avoid)
            most: dict[float, float] = {}

            def may_take(name: str) -> bool:
                replica = replicas[name]
                capacity = replica.report.capacity
                if capacity not in most:
                    most[capacity] = policy.most(load_now - 1, capacity)
                return replica.load + 1 <= most[capacity] and name not in last

            # Those without adapters have no home; any will do.
            order = self._ring.order(min(wanted, key=self._num_holders, default=str(self._num_sent)))
            home = next(filter(may_take, order), "")
            if not home:
                return min(replicas, key=lambda name: (name in last, name in avoid, replicas[name].load, name))
            held: dict[str, float] = {home: policy.home}
            for digest in dict.fromkeys(wanted):
                for name in self._holders(digest):
                    held[name] = held.get(name, 0.0) + 1 / len(wanted)
            _, best = max(
                (share - policy.load * replicas[name].load / load_now, name)
                for name, share in held.items()
                if name in replicas and may_take(name)
            )
            return best

    def send(self, replica: str, digests: Iterable[str]) -> None:
        """A request with these adapters goes to `replica`."""
        now_s = self._clock()
        with self._lock:
            self._num_sent += 1
            self._forget(now_s)
            for digest in digests:
                self._placed.setdefault(digest, {})[replica] = now_s + self._ttl_s
                self._sent.append((now_s + self._ttl_s, replica, digest))
            self._count(replica, 1)

    def finish(self, replica: str) -> None:
        """One request that was sent to `replica` has ended."""
        with self._lock:
            self._count(replica, -1)

    def _num_holders(self, digest: str) -> int:
        return len(self._resident.get(digest, ())) + len(self._placed.get(digest, ()))

    def _holders(self, digest: str) -> Collection[str]:
        resident, placed = self._resident.get(digest, set()), self._placed.get(digest)
        return resident.union(placed) if placed else resident

    def _forget(self, now_s: float) -> None:
        while self._sent and self._sent[0][0] <= now_s:
            expired_s, name, digest = self._sent.popleft()
            held = self._placed.get(digest, {})
            if held.get(name) == expired_s:  # not sent there again since
                del held[name]
                if not held:
                    del self._placed[digest]

    def _count(self, name: str, change: int) -> None:
        replica = self._replicas.get(name)
        if replica is not None:
            replica.inflight = max(0, replica.inflight + change)
            before = replica.load
            replica.load = max(replica.inflight, replica.load + change * self._others)
            self._total += replica.load - before

    def _hear(self, name: str, report: Report) -> None:
        replica = self._replicas[name]
        for digest in replica.report.resident - report.resident:
            self._resident[digest].discard(name)
            if not self._resident[digest]:
                del self._resident[digest]
        for digest in report.resident - replica.report.resident:
            self._resident.setdefault(digest, set()).add(name)
        replica.report = report
        # The report is late but counts every caller; what this one sent is exact.
        replica.load = replica.inflight if report.load == math.inf else max(report.load, replica.inflight)


class Ticket:
    """One pick: what the caller wants, which address has just failed it, and where the router sent it."""

    def __init__(self, wanted: Iterable[str], avoid: str = "") -> None:
        self.wanted = tuple(dict.fromkeys(wanted))
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
