"""The metrics of processes on their way to Prometheus: one port of a machine, whoever lives there.

A process that has the machine to itself answers the port (`serve_metrics`). Processes that share one (`Shared`) each
leave what they count in a common folder every few seconds, and whichever of them holds the port answers for all; when
it ends, another takes over. Ray's own way was left: see ADR 23.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ramole.core.address import join_address
from ramole.core.errors import WrongState
from ramole.core.settings import MetricsSettings

_PERIOD_S = 2.0
_MAX_REPLICAS = 1024

_log = logging.getLogger(__name__)


class Exposition(Collector):
    """The registries of all services of a process as one. The labels ``service`` and ``replica`` tell them apart.

    Args:
        replica: of all services of this process.
    """

    def __init__(self, replica: str = "0") -> None:
        self._registries: dict[str, CollectorRegistry] = {}
        self._replica = replica

    def add(self, service: str, registry: CollectorRegistry) -> None:
        """From now on `registry` is part of it."""
        self._registries[service] = registry

    def collect(self) -> Iterator[Metric]:
        """Families of one name from different services are one family."""
        yield from _merged(
            (found, {"service": service, "replica": self._replica})
            for service, registry in list(self._registries.items())
            for found in registry.collect()
        )


def as_text(exposition: Exposition) -> bytes:
    """What Prometheus reads, in its text format."""
    return generate_latest(_registry_of(exposition))


def serve_metrics(exposition: Collector, settings: MetricsSettings) -> Callable[[], None]:
    """Answers ``GET /metrics``, unless the port is 0. Returns what ends it.

    Raises:
        WrongState: the port is taken.
    """
    if not settings.port:
        return lambda: None
    address = join_address(settings.host, settings.port)
    try:
        server, thread = start_http_server(settings.port, settings.host, _registry_of(exposition))
    except OSError as error:
        raise WrongState(
            f"cannot listen on {address}: {error.strerror}",
            field="metrics.port",
            remedy="choose another port, or 0 for none",
        ) from error
    _log.info("metrics at http://%s/metrics", address)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class Shared:
    """The metrics of one service, in a process beside others of the same system on the same machine.

    Args:
        service: its name.
        registry: its metrics.
        settings: where all of them are answered; with port 0 nothing is done.
        folder: that the processes share; the default is one of this user's for the port.
    """

    def __init__(
        self, service: str, registry: CollectorRegistry, settings: MetricsSettings, folder: Path | None = None
    ) -> None:
        self._service = service
        self._registry = registry
        self._settings = settings
        self._folder = folder or Path(tempfile.gettempdir()) / f"ramole-metrics-{os.getuid()}-{settings.port}"
        self._ended = Event()
        self._thread = Thread(target=self._work, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins. Raises WrongState if the folder is somebody else's."""
        if not self._settings.port:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.is_symlink() or self._folder.stat().st_uid != os.getuid():
            raise WrongState(
                f"{self._folder} belongs to another user", field="metrics.port", remedy="choose another port"
            )
        self._place = place = _Place.take(self._folder, self._service)
        self._exposition = Exposition(place.replica)
        self._exposition.add(self._service, self._registry)
        place.write(self._exposition)
        self._thread.start()

    def stop(self) -> None:
        """Ends, and leaves nothing behind. Safe to call more than once, and without `start`."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._place.leave)
            has_port = has_warned = False
            while True:
                if not has_port:
                    try:
                        stack.callback(serve_metrics(_Everyone(self._folder), self._settings))
                        has_port = True
                    except WrongState as error:
                        if not (has_warned or self._has_company()):  # nobody of us can have it
                            _log.warning("Prometheus finds nothing here: %s", error)
                            has_warned = True
                if self._ended.wait(_PERIOD_S):
                    return
                try:
                    self._place.write(self._exposition)
                except Exception:  # whatever it is, the next figures may be better
                    _log.exception("the metrics cannot be told")

    def _has_company(self) -> bool:
        others = (path for path in self._folder.glob("*.json") if path != self._place.file)
        return any(map(_Place.is_held, others))


class _Everyone(Collector):
    """What the processes that live have left in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        found = (_read(path) for path in sorted(self._folder.glob("*.json")) if _Place.is_held(path))
        yield from _merged((family, {}) for families in found for family in families)


class _Place:
    """The place of one replica in the folder: a lock, which ends with the process however it ends, and a file.

    The number of the place is the label ``replica``. Whoever comes next takes it over, so that there are never more of
    them than replicas, and a counter that begins anew is one series.
    """

    def __init__(self, file: Path, lock: IO[bytes]) -> None:
        self.file = file
        self._lock = lock

    @property
    def replica(self) -> str:
        return self.file.stem.rpartition("-")[2]

    @classmethod
    def take(cls, folder: Path, service: str) -> _Place:
        for number in range(_MAX_REPLICAS):
            file = folder / f"{service}-{number}.json"
            lock = file.with_suffix(".lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            file.unlink(missing_ok=True)  # of one that has died
            return cls(file, lock)
        raise WrongState(f"{_MAX_REPLICAS} replicas of {service} on one machine", field=f"{service}.replicas")

    @staticmethod
    def is_held(file: Path) -> bool:
        try:
            with file.with_suffix(".lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def write(self, exposition: Exposition) -> None:
        families = [
            [each.name, each.documentation, each.type, [[s.name, s.labels, s.value] for s in each.samples]]
            for each in exposition.collect()
        ]
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps(families))
        draft.replace(self.file)

    def leave(self) -> None:
        self.file.unlink(missing_ok=True)
        self._lock.close()


def _read(path: Path) -> list[Metric]:
    try:
        families: list[list[Any]] = json.loads(path.read_text())
    except FileNotFoundError:  # it has just left
        return []
    found = []
    for name, text, kind, samples in families:
        family = Metric(name, text, kind)
        for sample in samples:
            family.add_sample(*sample)
        found.append(family)
    return found


def _merged(found: Iterable[tuple[Metric, dict[str, str]]]) -> Iterator[Metric]:
    """Each family once, with more labels on its samples."""
    families: dict[str, Metric] = {}
    for part, labels in found:
        family = families.setdefault(part.name, Metric(part.name, part.documentation, part.type))
        for sample in part.samples:
            if not sample.name.endswith("_created"):
                family.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
    yield from families.values()


def _registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
