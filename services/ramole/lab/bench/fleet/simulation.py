"""A fleet of executors in simulated time: requests, loads, reports, failures, and the scaling policy."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from ramole.app.scaling import Fleet, History, ScalingPolicy, executor_load
from ramole.lab.bench.fleet.choosers import Chooser
from ramole.lab.bench.fleet.replica import Job, SimReplica, Tiers
from ramole.lab.bench.fleet.traffic import Arrival
from ramole.transport.affinity import Report

REPORT_S = 1.0
"""Between two reports of a replica."""


@dataclass(slots=True)
class Outcome:
    """What was seen after the warm-up.

    Attributes:
        waits_s: from a request's arrival until it ran.
        loads: requests in flight by replica, summed over all looks.
        watched: adapter -> replica -> requests, of the adapters that came first.
        changes: second and target of the scaling policy.
        num_hits, num_warm, num_wanted: adapters of requests: found in their slot, or in host memory at least, all.
        num_failed: requests that no replica would take.
        num_repeated: requests whose replica died.
    """

    waits_s: list[float] = field(default_factory=list)
    loads: dict[str, float] = field(default_factory=dict)
    watched: dict[str, dict[str, int]] = field(default_factory=dict)
    changes: list[tuple[float, int]] = field(default_factory=list)
    num_hits: int = 0
    num_warm: int = 0
    num_wanted: int = 0
    num_failed: int = 0
    num_repeated: int = 0
    replica_seconds: float = 0.0

    @property
    def hottest(self) -> str:
        """The adapter that most requests came for."""
        return max(self.watched, key=lambda name: sum(self.watched[name].values()))


class Simulation:
    """Runs one fleet under one chooser.

    Args:
        make: a chooser for each gateway.
        num_gateways: that choose without knowing of each other.
        warm_s: what happens before is not counted.
        policy: decides how many replicas there are; None = `num_replicas` for ever.
        start_s: from the decision to a replica's first request.
    """

    def __init__(
        self,
        make: Callable[[Simulation, int], Chooser],
        *,
        num_replicas: int,
        tiers: Tiers,
        num_gateways: int,
        warm_s: float,
        policy: ScalingPolicy | None = None,
        start_s: float = 20.0,
    ) -> None:
        self.now_s = 0.0
        self.outcome = Outcome()
        self._tiers = tiers
        self._warm_s = warm_s
        self._policy = policy
        self._start_s = start_s
        self._history: History | None = None
        self._names = count()
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._fleet: dict[str, SimReplica] = {}
        self._reports: dict[str, Report] = {}
        self._target = num_replicas
        self._num_starting = 0
        self._is_over = False
        self._choosers = [make(self, gateway) for gateway in range(num_gateways)]
        for _ in range(num_replicas):
            self._join()
        self._tell()

    def load(self, name: str) -> float:
        """Requests at a replica now."""
        return len(self._fleet[name].jobs)

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        """Does something at a time."""
        heapq.heappush(self._events, (at_s, next(self._order), do))

    def run(self, arrivals: Iterator[Arrival], until_s: float) -> Outcome:
        """Lets requests arrive until `until_s`, then waits for the last answer."""
        self.at(REPORT_S, self._report)
        if self._policy is not None:
            self.at(REPORT_S, self._scale)
        arrival = next(arrivals)
        while arrival.at_s < until_s or self._events:
            if arrival.at_s < until_s and (not self._events or arrival.at_s <= self._events[0][0]):
                self.now_s = arrival.at_s
                self._send(Job(arrival, arrival.at_s))
                arrival = next(arrivals)
                continue
            at_s, _, do = heapq.heappop(self._events)
            self.now_s = at_s
            self._is_over = arrival.at_s >= until_s
            do()
        return self.outcome

    def kill(self) -> None:
        """A replica dies with all it has, and another starts in its place; its requests go elsewhere."""
        name = next(iter(self._fleet))
        dead = self._fleet.pop(name)
        self._tell()
        for job in sorted(dead.jobs, key=lambda job: job.asked_s):
            self._choosers[job.arrival.gateway].finish(name)
            job.started_s = None
            job.num_warm = 0
            self.outcome.num_repeated += 1
            self._send(job)
        dead.jobs.clear()
        self._num_starting += 1
        self.at(self.now_s + self._start_s, self._started)

    def _join(self) -> None:
        name = f"replica-{next(self._names)}"
        self._fleet[name] = SimReplica(name, self._tiers)

    def _started(self) -> None:
        self._num_starting -= 1
        self._join()
        self._tell()

    def _tell(self) -> None:
        """Everybody hears of it when the set of replicas changes."""
        self._reports = {
            name: self._reports.get(name, Report()) for name, replica in self._fleet.items() if not replica.is_draining
        }
        for chooser in self._choosers:
            chooser.update(self._reports)

    def _report(self) -> None:
        self._reports = {
            name: Report(len(replica.jobs), frozenset(replica.slots.resident), self._tiers.num_rows)
            for name, replica in self._fleet.items()
            if not replica.is_draining
        }
        for chooser in self._choosers:
            chooser.update(self._reports)
        if self.now_s >= self._warm_s:
            self.outcome.replica_seconds += len(self._fleet) * REPORT_S
            for name, replica in self._fleet.items():
                self.outcome.loads[name] = self.outcome.loads.get(name, 0.0) + len(replica.jobs)
        if not self._is_over:
            self.at(self.now_s + REPORT_S, self._report)

    def _scale(self) -> None:
        assert self._policy is not None
        serving = [replica for replica in self._fleet.values() if not replica.is_draining]
        fleet = Fleet(self._target, len(serving), [executor_load(replica.record()) for replica in serving])
        self._target, self._history = self._policy.decide(self._history, self.now_s, fleet)
        if self._target != fleet.target:
            self.outcome.changes.append((self.now_s, self._target))
        for _ in range(self._target - len(serving) - self._num_starting):
            self._num_starting += 1
            self.at(self.now_s + self._start_s, self._started)
        for replica in sorted(serving, key=lambda replica: len(replica.jobs))[: max(0, len(serving) - self._target)]:
            replica.is_draining = True
            self._tell()
            self._leave(replica)
        if not self._is_over:
            self.at(self.now_s + REPORT_S, self._scale)

    def _leave(self, replica: SimReplica) -> None:
        if replica.is_draining and not replica.jobs:
            del self._fleet[replica.name]

    def _send(self, job: Job) -> None:
        chooser = self._choosers[job.arrival.gateway]
        name = chooser.choose(job.arrival.wanted)
        if not name:
            self.outcome.num_failed += 1
            return
        chooser.send(name, job.arrival.wanted)
        replica = self._fleet[name]
        replica.jobs.add(job)
        until_s = replica.load_until(job, self.now_s)
        if until_s > self.now_s:
            self.at(until_s, lambda: self._ready(replica, job))
        else:
            self._ready(replica, job)

    def _ready(self, replica: SimReplica, job: Job) -> None:
        if job in replica.jobs:  # it may have died
            replica.ready.append(job)
            self._start(replica)

    def _start(self, replica: SimReplica) -> None:
        while (job := replica.start()) is not None:
            job.started_s = self.now_s
            if job.asked_s >= self._warm_s:
                self.outcome.num_hits += job.num_hits
                self.outcome.num_warm += job.num_warm
                self.outcome.num_wanted += len(job.arrival.wanted)
            self.at(self.now_s + replica.takes_s(job), partial(self._finish, replica, job))

    def _finish(self, replica: SimReplica, job: Job) -> None:
        if job not in replica.jobs:
            return
        replica.finish(job)
        self._choosers[job.arrival.gateway].finish(replica.name)
        if job.asked_s >= self._warm_s and job.started_s is not None:
            outcome = self.outcome
            outcome.waits_s.append(job.started_s - job.asked_s)
            by_replica = outcome.watched.setdefault(job.arrival.wanted[0], {})
            by_replica[replica.name] = by_replica.get(replica.name, 0) + 1
        self._start(replica)
        self._leave(replica)
