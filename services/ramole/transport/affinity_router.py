"""Feeds Ray Serve's view of the replicas to the affinity policy."""

from __future__ import annotations

import time
from functools import partial

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from ramole.transport.affinity import AffinityPolicy, Candidate, Ledger, Ticket


class AdapterAffinityRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]  # ray ships no types
    """Request router of the executor's deployment. Expects a `Ticket` as the first argument of `choose_replica`."""

    def initialize_state(self, placed_ttl_s: float = 10.0) -> None:
        """Called once by Serve with the router's keyword arguments."""
        self._policy = AffinityPolicy()
        self._ledger = Ledger(placed_ttl_s, time.monotonic)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve whenever the set of replicas changes."""
        super().update_replicas(replicas)
        self._ledger.keep(replica.replica_id.unique_id for replica in replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All candidates, one in each rank, best first."""
        if pending_request is None:
            return [[replica] for replica in candidate_replicas]
        # Without this Serve asks again in a busy loop when no candidate can be taken.
        pending_request.routing_context.should_backoff = True
        ticket = next((arg for arg in pending_request.args if isinstance(arg, Ticket)), None) or Ticket(())
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ranked = self._policy.rank(ticket.wanted, [self._candidate(name, replicas[name]) for name in replicas])
        if ticket.avoid:
            ranked.sort(key=lambda name: replicas[name].replica_metadata.get("address") == ticket.avoid)
        if ranked:
            self._ledger.send(ranked[0], ticket.wanted)
            ticket.assign(partial(self._ledger.finish, ranked[0]))
        return [[replicas[name]] for name in ranked]

    def _candidate(self, name: str, replica: RunningReplica) -> Candidate:
        stats = replica.routing_stats or {}
        return Candidate(
            name,
            # The report is late but counts every caller, the ledger is exact but counts this one only.
            load=max(float(stats.get("load", 0.0)), self._ledger.inflight(name)),
            resident=frozenset(stats.get("adapters", ())) | self._ledger.placed(name),
        )
