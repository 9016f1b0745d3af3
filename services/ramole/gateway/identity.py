"""Who asks at the public ports: the holder of a key, or anybody where nothing else is set."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

from ramole.core.call import USER, Principal
from ramole.core.errors import Unauthenticated, WrongState
from ramole.core.settings import Settings
from ramole.gateway.keys import KeyFile
from ramole.transport.identity import Peer, seen_principal

_REMEDY = "send `authorization: Bearer KEY`; operators make keys with `ramole keys add`"


class EdgeIdentity:
    """Finds out who calls, from the key that comes along.

    Without any keys everybody is ANONYMOUS, an operator; that is only allowed on this machine, or where
    `gateway.allow_anonymous` says so. With keys, whoever brings none is refused, or may generate where it says so.

    Raises:
        WrongState: everybody on the network could do everything, and nobody has said that they may.
        Corrupt: the keys cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = KeyFile(keys_path(settings))
        self._allows_anonymous = settings.gateway.allow_anonymous
        hosts = {"gateway.server.host": settings.gateway.server.host}
        if settings.gateway.http.port is not None:
            hosts["gateway.http.host"] = settings.gateway.http.host
        open_field = next((field for field, host in hosts.items() if not is_loopback(host)), "")
        if open_field and self._keys.is_empty and not self._allows_anonymous:
            raise WrongState(
                f"{hosts[open_field]} can be reached from other machines, and there are no keys",
                field=open_field,
                remedy="make one with `ramole keys add`, listen on 127.0.0.1, or set gateway.allow_anonymous",
            )

    @property
    def is_open(self) -> bool:
        """Whether there are no keys."""
        return self._keys.is_empty

    def __call__(self, peer: Peer) -> Principal:
        """The principal of a call. Raises Unauthenticated."""
        header = peer.metadata.get("authorization", "")
        if header:
            scheme, _, secret = header.partition(" ")
            key = self._keys.find(secret.strip()) if scheme.lower() == "bearer" else None
            if key is None and not self._keys.is_empty:
                raise Unauthenticated("the key is not known here", field="authorization", remedy=_REMEDY)
            if key is not None:
                return key.principal
        seen = seen_principal(peer)
        if self._keys.is_empty:
            return seen
        if self._allows_anonymous:
            return replace(seen, roles=frozenset({USER}))
        raise Unauthenticated("no key came along", field="authorization", remedy=_REMEDY)


def keys_path(settings: Settings) -> Path:
    """Where the keys are."""
    return settings.gateway.keys_file or settings.data_dir / "keys.json"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
