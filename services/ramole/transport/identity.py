"""The principal of a call in gRPC metadata, between services. A public server never reads it: it looks for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, unquote

from ramole.core.call import ANONYMOUS, Principal

_TENANT, _NAME, _ROLES = "x-ramole-tenant", "x-ramole-name", "x-ramole-roles"


def principal_to_metadata(principal: Principal) -> tuple[tuple[str, str], ...]:
    """Pairs for the metadata of a call, ASCII whatever the name holds."""
    pairs = ((_TENANT, principal.tenant), (_NAME, principal.name), (_ROLES, " ".join(sorted(principal.roles))))
    return tuple((key, quote(value, safe=" :/@[],=")) for key, value in pairs if value)


def principal_from_metadata(metadata: Mapping[str, str]) -> Principal:
    """Who another service says that asks; ANONYMOUS if it names no tenant."""
    name = unquote(metadata.get(_NAME, ""))
    if _TENANT not in metadata:
        return replace(ANONYMOUS, name=name)
    return Principal(unquote(metadata[_TENANT]), name, frozenset(unquote(metadata.get(_ROLES, "")).split()))
