"""The principal of a call in gRPC metadata, between services. A public server never reads it: it looks for itself."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

from ramole.core.call import ANONYMOUS, Principal

_TENANT, _NAME, _ROLES = "x-ramole-tenant", "x-ramole-name", "x-ramole-roles"


def principal_to_metadata(principal: Principal) -> tuple[tuple[str, str], ...]:
    """Pairs for the metadata of a call, ASCII whatever the name holds."""
    pairs = ((_TENANT, principal.tenant), (_NAME, principal.name), (_ROLES, " ".join(sorted(principal.roles))))
    return tuple((key, quote(value, safe=" :/@[],=")) for key, value in pairs if value)


def principal_from_metadata(metadata: Mapping[str, str]) -> Principal:
    """Who another service says that asks."""
    return Principal(
        tenant=unquote(metadata.get(_TENANT, "")) or ANONYMOUS.tenant,
        name=unquote(metadata.get(_NAME, "")),
        roles=frozenset(unquote(metadata.get(_ROLES, "")).split()),
    )
