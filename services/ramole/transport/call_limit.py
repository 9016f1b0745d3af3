"""How many calls a server works on: places by class of method, so that one class cannot use up those of another."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from ramole.core.errors import LimitExceeded, Unavailable
from ramole.core.settings import ServerSettings

_RETRY_S = 1.0


class Kind(Enum):
    """Class of a method. The value is what its calls are called."""

    CALL = "calls"
    """Short work, generations included."""
    TRANSFER = "transfers"
    """Whole files, at the speed of the other side."""
    WATCH = "watches"
    """Streams that tell news or progress for as long as somebody listens."""


class CallLimit:
    """Whether this server takes one more call. Belongs to one event loop.

    Args:
        settings: how many calls of each class at once, and what part of them one peer may hold.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._limits = {
            Kind.CALL: settings.max_inflight,
            Kind.TRANSFER: settings.max_transfers,
            Kind.WATCH: settings.max_watches,
        }
        self._peer_share = settings.peer_share
        self._peers_are_hosts = settings.peers_are == "hosts"
        self._held: Counter[Kind] = Counter()
        self._held_by: Counter[tuple[Kind, str]] = Counter()
        self.is_open = False

    @property
    def inflight(self) -> int:
        """Calls of all classes that run now."""
        return self._held.total()

    @property
    def load(self) -> int:
        """Those of them that are work; who only watches is none."""
        return self.inflight - self._held[Kind.WATCH]

    @property
    def num_places(self) -> int:
        """Calls of all classes that may run at once."""
        return sum(self._limits.values())

    def check_open(self) -> None:
        """Raises Unavailable when the server is closed."""
        if not self.is_open:
            raise Unavailable("the server is starting or stopping", remedy="retry with back-off")

    def enter(self, kind: Kind, peer: str, *, even_if_closed: bool = False) -> None:
        """Counts a call in.

        Args:
            peer: its address and port, e.g. ``ipv4:10.0.0.7:40112``.
            even_if_closed: for what must answer while the server starts or drains.

        Raises:
            Unavailable: the server is closed.
            LimitExceeded: all places of the class are taken, or the peer holds its share of them.
        """
        if not even_if_closed:
            self.check_open()
        held, limit = self._held[kind], self._limits[kind]
        if held >= limit:
            raise LimitExceeded(
                f"{held} {kind.value} are in flight already, the most at once",
                field=_SETTINGS[kind],
                remedy="retry with back-off",
                retry_after_s=_RETRY_S,
            )
        own, share = self._held_by[kind, self._of(peer)], max(1, int(limit * self._peer_share))
        if own >= share:
            raise LimitExceeded(
                f"{own} {kind.value} of this client are in flight already, the most of one",
                field="server.peer_share",
                remedy="wait for some of them, or have the operator raise server.peer_share",
                retry_after_s=_RETRY_S,
            )
        self._held[kind] += 1
        self._held_by[kind, self._of(peer)] += 1

    def leave(self, kind: Kind, peer: str) -> None:
        """Counts a call out."""
        self._held[kind] -= 1
        key = kind, self._of(peer)
        self._held_by[key] -= 1
        if not self._held_by[key]:
            del self._held_by[key]

    def _of(self, peer: str) -> str:
        return peer.rpartition(":")[0] if self._peers_are_hosts else peer


_SETTINGS = {
    Kind.CALL: "server.max_inflight",
    Kind.TRANSFER: "server.max_transfers",
    Kind.WATCH: "server.max_watches",
}
