"""What the store counts of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from ramole.observability.specs import GaugeSpec

if TYPE_CHECKING:
    from ramole.adapters.store.store import Store

VERSIONS = GaugeSpec("ramole_store_versions", "Versions of adapters in the store, staged ones included.")
FINDABLE = GaugeSpec("ramole_store_findable", "Adapters that the index must hold.")


def watch_store(registry: CollectorRegistry, store: Store) -> None:
    """Reports the sizes of `store` from now on."""
    VERSIONS.on(registry).set_function(lambda: store.num_versions)
    FINDABLE.on(registry).set_function(lambda: store.num_findable)
