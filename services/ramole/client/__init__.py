"""The typed clients of the public service, asynchronous and synchronous."""

from ramole.client.client import RamoleClient
from ramole.client.requests import Request, UseAdapter
from ramole.client.sync import SyncRamoleClient
from ramole.client.values import (
    AdapterRecord,
    AdapterUsage,
    Caller,
    Completion,
    Description,
    LeftOut,
    Limits,
    PartUsage,
    ReindexProgress,
    Revoked,
    Route,
    RoutedAdapter,
    Routing,
    ServiceStatus,
    StepSnapshot,
    TierStatus,
    Uploaded,
    Usage,
    Version,
)
from ramole.core.answer import Chunk, FinishReason, PartEnd, TopTokens
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
    "LeftOut",
    "Limits",
    "Message",
    "PartEnd",
    "PartUsage",
    "RamoleClient",
    "ReindexProgress",
    "Request",
    "Revoked",
    "Route",
    "RoutedAdapter",
    "Routing",
    "Samples",
    "SamplesFormat",
    "ServiceStatus",
    "StepSnapshot",
    "SyncRamoleClient",
    "TierStatus",
    "TopTokens",
    "Uploaded",
    "Usage",
    "UseAdapter",
    "Version",
    "read_samples",
]
