"""A replica of the executor as far as placement can tell: rows, slots, host memory, and the time that loads take."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ramole.executor.slots import SlotTable
from ramole.lab.bench.fleet.traffic import Arrival


@dataclass(frozen=True, slots=True)
class Tiers:
    """Sizes and speeds of one replica.

    Attributes:
        num_rows: requests that run at once.
        num_slots: the empty slot included.
        num_host: adapters in host memory.
        host_s, store_s: to bring an adapter from there to a slot.
        crowded: how much longer an answer takes in a full batch than alone.
    """

    num_rows: int = 16
    num_slots: int = 65
    num_host: int = 256
    host_s: float = 0.005
    store_s: float = 0.15
    crowded: float = 1.0


@dataclass(slots=True, eq=False)
class Job:
    """One request at a replica.

    Attributes:
        asked_s: when it first arrived anywhere.
        num_warm: of its adapters that were near when it came.
        num_hits: of its adapters that were in their slots when it ran.
    """

    arrival: Arrival
    asked_s: float
    started_s: float | None = None
    num_warm: int = 0
    num_hits: int = 0


@dataclass(slots=True, eq=False)
class SimReplica:
    """Its state; the simulation moves the time.

    Attributes:
        jobs: here, whether they load, wait or run.
        ready: of these those that wait for a row or slots only.
    """

    name: str
    tiers: Tiers
    jobs: set[Job] = field(default_factory=set)
    ready: list[Job] = field(default_factory=list)
    num_running: int = 0
    is_draining: bool = False
    slots: SlotTable = field(init=False)
    _host: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _loading: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots = SlotTable(self.tiers.num_slots)

    def load_until(self, job: Job, now_s: float) -> float:
        """When all its adapters will be at hand. Loads run side by side, and once for all who wait."""
        until_s = now_s
        for digest in job.arrival.wanted:
            if digest in self.slots:
                job.num_warm += 1
            elif self._loading.get(digest, 0.0) > now_s:
                until_s = max(until_s, self._loading[digest])
            elif digest in self._host:
                job.num_warm += 1
                until_s = max(until_s, now_s + self.tiers.host_s)
            else:
                self._loading[digest] = now_s + self.tiers.store_s
                until_s = max(until_s, now_s + self.tiers.store_s)
            self._host[digest] = None
            self._host.move_to_end(digest)
        while len(self._host) > self.tiers.num_host:
            gone, _ = self._host.popitem(last=False)
            self._loading.pop(gone, None)
        return until_s

    def start(self) -> Job | None:
        """The next job that can run, if there are a row and slots for it."""
        if self.num_running >= self.tiers.num_rows:
            return None
        for i, job in enumerate(self.ready):
            if self.slots.can_acquire(job.arrival.wanted):
                self.ready.pop(i)
                job.num_hits = len(job.arrival.wanted) - len(self.slots.acquire(job.arrival.wanted))
                self.num_running += 1
                return job
        return None

    def takes_s(self, job: Job) -> float:
        """How long a job that starts now will run: a fuller batch has longer steps."""
        return job.arrival.work * (1 + self.tiers.crowded * self.num_running / self.tiers.num_rows)

    def finish(self, job: Job) -> None:
        """A job has ended."""
        self.num_running -= 1
        self.slots.release(job.arrival.wanted)
        self.jobs.discard(job)

    def record(self) -> dict[str, float]:
        """As an executor records itself for the scaling policy."""
        return {
            "running": self.num_running,
            "queued": len(self.ready),
            "max_running": self.tiers.num_rows,
            "running_tokens": self.num_running,
            "queued_tokens": len(self.jobs) - self.num_running,
            "max_tokens": self.tiers.num_rows,
            "slots": self.slots.num_busy,
            "max_slots": self.tiers.num_slots - 1,
            "first_token_s": 0.0,
        }
