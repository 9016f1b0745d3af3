"""What the shell offers when Tab is pressed behind an adapter's name."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import typer

from ramole.cli._login import resolve_login
from ramole.core.errors import RamoleError

if TYPE_CHECKING:
    from ramole.cli._login import Login

_TIMEOUT_S = 2.0
_MOST = 200


def complete_adapter(context: typer.Context, incomplete: str) -> list[str]:
    """Adapters that the server has: one's own by their names, others by ``tenant/name``; none if it does not answer."""
    root = context.find_root().params
    address, key, ca = (root.get(name) or "" for name in ("address", "key", "ca"))
    try:
        return _names(resolve_login(context.params.get("address") or address, key, ca), incomplete)
    except (RamoleError, OSError):
        return []  # a word on stderr would stand in the middle of what is being typed


def _names(login: Login, incomplete: str) -> list[str]:
    from ramole.client import SyncRamoleClient

    tenant, slash, prefix = incomplete.rpartition("/")
    with SyncRamoleClient(login.address, key=login.key, ca_file=login.ca, timeout_s=_TIMEOUT_S, retries=0) as client:
        whose = tenant or client.describe().caller.tenant
        found = islice(client.adapters(tenant=whose, name_prefix=prefix, latest_only=True), _MOST)
        return [f"{tenant}{slash}{record.ref.name}" for record in found]
