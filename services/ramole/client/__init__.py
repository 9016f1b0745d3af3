"""The typed clients of the public service, asynchronous and synchronous."""

from ramole.client.client import RamoleClient, UseAdapter
from ramole.client.sync import SyncRamoleClient
from ramole.client.values import (
    AdapterRecord,
    AdapterUsage,
    Caller,
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
from ramole.core.chat import Message
from ramole.core.samples import Samples, SamplesFormat, read_samples

__all__ = [
    "AdapterRecord",
    "AdapterUsage",
    "Caller",
    "Chunk",
    "Completion",
    "Description",
    "FinishReason",
    "Message",
    "RamoleClient",
    "ReindexProgress",
    "Revoked",
    "Route",
    "RoutedAdapter",
    "Routing",
    "Samples",
    "SamplesFormat",
    "StepSnapshot",
    "SyncRamoleClient",
    "Uploaded",
    "Usage",
    "UseAdapter",
    "Version",
    "read_samples",
]
