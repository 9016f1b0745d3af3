"""The typed asynchronous client of the public service."""

from ramole.client.client import RamoleClient, UseAdapter
from ramole.client.values import (
    AdapterRecord,
    AdapterUsage,
    Completion,
    Description,
    ReindexProgress,
    Revoked,
    Route,
    RoutedAdapter,
    Routing,
    StepSnapshot,
    Uploaded,
    Usage,
    Version,
)
from ramole.core.answer import Chunk, FinishReason
from ramole.core.samples import Samples, SamplesFormat, read_samples

__all__ = [
    "AdapterRecord",
    "AdapterUsage",
    "Chunk",
    "Completion",
    "Description",
    "FinishReason",
    "RamoleClient",
    "ReindexProgress",
    "Revoked",
    "Route",
    "RoutedAdapter",
    "Routing",
    "Samples",
    "SamplesFormat",
    "StepSnapshot",
    "Uploaded",
    "Usage",
    "UseAdapter",
    "Version",
    "read_samples",
]
