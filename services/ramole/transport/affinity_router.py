"""Feeds Ray Serve's view of the replicas to the affinity policy."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from ramole.transport.affinity import Placement, Report, Ticket


class AdapterAffinityRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]  # ray ships no types
    """Request router of the executor's deployment. Expects a `Ticket` as the first argument of `choose_replica`."""

    def initialize_state(self, placed_ttl_s: float = 10.0) -> None:
        """Called once by Serve with the router's keyword arguments."""
        self._placement = Placement(placed_ttl_s, time.monotonic)
        self._by_name: dict[str, RunningReplica] = {}
        self._reports: dict[str, Report] = {}
        self._stats: dict[str, dict[str, Any]] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve whenever the replicas change, or what they say of themselves does."""
        super().update_replicas(replicas)
        self._by_name = {replica.replica_id.unique_id: replica for replica in replicas}
        stats = {name: replica.routing_stats or {} for name, replica in self._by_name.items()}
        # Each of Serve's messages is about all of them; only those that say something new are read again.
        self._reports = {
            name: self._reports[name] if self._stats.get(name) == told else _report(told)
            for name, told in stats.items()
        }
        self._stats = stats
        self._placement.update(self._reports)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The best one first, then those that are left."""
        if pending_request is None:
            return [[replica] for replica in candidate_replicas]
        # Without this Serve asks again in a busy loop when no candidate can be taken.
        pending_request.routing_context.should_backoff = True
        ticket = next((arg for arg in pending_request.args if isinstance(arg, Ticket)), None) or Ticket(())
        avoid = [name for name, replica in self._by_name.items() if _address(replica) == ticket.avoid != ""]
        name = self._placement.choose(ticket.wanted, avoid)
        if not name:
            return []
        self._placement.send(name, ticket.wanted)
        ticket.assign(partial(self._placement.finish, name))
        return [[self._by_name[name]]]


def _report(stats: dict[str, Any]) -> Report:
    return Report(float(stats.get("load", 0)), frozenset(stats.get("adapters", ())), float(stats.get("capacity", 0)))


def _address(replica: RunningReplica) -> str:
    return str(replica.replica_metadata.get("address", ""))
