"""What an endpoint picker of the Gateway API's inference extension reads of every member of its pool.

Its protocol asks for the requests that wait and run, the use of the KV memory, and the adapters at hand as labels of
one gauge whose value is the time. Which adapters are at hand changes with every request, so these labels stay out of
the metrics that Prometheus keeps.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ramole.gateway.values import Routing
from ramole.v1.executor_pb2 import GetStatusResponse

_MAX_NAMES = 4096
_FRESH_S = 0.1

WAITING = "ramole_pool_requests_waiting"
RUNNING = "ramole_pool_requests_running"
KV_USAGE = "ramole_pool_kv_usage_ratio"
LORA_INFO = "ramole_pool_lora_requests_info"


class SeenNames:
    """By which names this gateway has used contents lately: executors know digests, pickers know names."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def saw(self, routing: Routing) -> None:
        """An answer uses these adapters."""
        for choice in routing.choices:
            self._names[choice.ref.digest] = f"{choice.ref.tenant}/{choice.ref.name}"
            self._names.move_to_end(choice.ref.digest)
        while len(self._names) > _MAX_NAMES:
            self._names.popitem(last=False)

    def of(self, digests: Iterable[str]) -> list[str]:
        """Names, each once; contents that this gateway has not used have none."""
        return list(dict.fromkeys(self._names[digest] for digest in digests if digest in self._names))


class _Gauges(Collector):
    """Those of one moment."""

    def __init__(self, statuses: Sequence[GetStatusResponse], names: SeenNames, now_s: float) -> None:
        self._statuses = statuses
        self._names = names
        self._now_s = now_s

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called by the registry."""
        statuses = self._statuses
        for name, says, value in (
            (WAITING, "Requests in the queues.", float(sum(status.waiting for status in statuses))),
            (RUNNING, "Requests that get tokens.", float(sum(status.running for status in statuses))),
            (
                KV_USAGE,
                "Share of the blocks of KV memory that requests hold: 0 to 1.",
                sum(status.kv_usage for status in statuses) / max(len(statuses), 1),
            ),
        ):
            yield GaugeMetricFamily(name, says, value=value)
        info = GaugeMetricFamily(
            LORA_INFO,
            "When these adapters were on the devices and awaited there; as many as max_lora fit.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        resident = self._names.of(digest for status in statuses for digest in status.resident_digests)
        awaited = self._names.of(digest for status in statuses for digest in status.awaited_digests)
        max_lora = sum(status.num_slots for status in statuses)
        info.add_metric([str(max_lora), ",".join(resident), ",".join(awaited)], self._now_s)
        yield info


class Pool:
    """Tells the pickers, which ask many times a second; the executors are asked ten times at most.

    Args:
        statuses: asks the executors.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        statuses: Callable[[], Awaitable[Sequence[GetStatusResponse]]],
        names: SeenNames,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._statuses = statuses
        self._names = names
        self._clock = clock
        self._told, self._told_s = b"", float("-inf")
        self._asking = asyncio.Lock()

    async def text(self) -> bytes:
        """In Prometheus' text format. Raises RamoleError: no executor answers."""
        async with self._asking:
            now_s = self._clock()
            if not 0 <= now_s - self._told_s < _FRESH_S:
                registry = CollectorRegistry()
                registry.register(_Gauges(await self._statuses(), self._names, now_s))
                self._told, self._told_s = generate_latest(registry), now_s
            return self._told
