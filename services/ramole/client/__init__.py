"""The typed asynchronous client of the public service."""

from ramole.client.client import RamoleClient, UseAdapter
from ramole.client.values import (
    AdapterRecord,
    AdapterUsage,
    Chunk,
    Completion,
    Description,
    ReindexProgress,
    Revoked,
    Route,
    RoutedAdapter,
    Routing,
    Step,
    Uploaded,
    Usage,
    Version,
)

__all__ = [
    "AdapterRecord",
    "AdapterUsage",
    "Chunk",
    "Completion",
    "Description",
    "RamoleClient",
    "ReindexProgress",
    "Revoked",
    "Route",
    "RoutedAdapter",
    "Routing",
    "Step",
    "Uploaded",
    "Usage",
    "UseAdapter",
    "Version",
]
