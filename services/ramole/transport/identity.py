"""Who asks, as a server finds it out: at the edge from the connection, behind it from what another service says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from urllib.parse import quote, unquote

from ramole.core.call import ANONYMOUS, Principal

_TENANT, _NAME, _ROLES = "x-ramole-tenant", "x-ramole-name", "x-ramole-roles"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a call.

    Attributes:
        address: where it calls from, e.g. ``ipv4:10.0.0.7:40112``.
        names: of its certificate, if it has shown one.
        metadata: what it says: gRPC's metadata or HTTP's headers, keys in small letters.
    """

    address: str
    names: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


Identify: TypeAlias = Callable[[Peer], Principal]


def seen_principal(peer: Peer) -> Principal:
    """At the edge: the names of its certificate, else its address. No client can forge it; what it says counts for
    nothing."""
    return replace(ANONYMOUS, name=",".join(sorted(peer.names)) or peer.address)


def told_principal(peer: Peer) -> Principal:
    """Between services: who the other one says that asks; ANONYMOUS if it names no tenant."""
    name = unquote(peer.metadata.get(_NAME, ""))
    if _TENANT not in peer.metadata:
        return replace(ANONYMOUS, name=name)
    roles = unquote(peer.metadata.get(_ROLES, "")).split()
    return Principal(unquote(peer.metadata[_TENANT]), name, frozenset(roles))


def principal_to_metadata(principal: Principal) -> tuple[tuple[str, str], ...]:
    """Pairs for the metadata of a call between services, ASCII whatever the name holds."""
    pairs = ((_TENANT, principal.tenant), (_NAME, principal.name), (_ROLES, " ".join(sorted(principal.roles))))
    return tuple((key, quote(value, safe=" :/@[],=")) for key, value in pairs if value)
