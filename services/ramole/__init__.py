"""ramole: plain prompt in, the right LoRA adapters found, mixed and applied, in one heterogeneous batch.

async with ramole.RamoleClient("127.0.0.1:50051") as client:
    print((await client.complete("Translate to German: good morning")).text)

`SyncRamoleClient` does the same without ``await``.

Everything public is here, loaded when it is first asked for. A client needs ``pip install ramole``; `OfflineEngine` and
`ExecutorSettings`, which run a model here, need ``pip install 'ramole[serve]'``.
"""

import typing as _typing
from importlib import import_module as _import_module

if _typing.TYPE_CHECKING:
    from ramole.client import (
        AdapterRecord,
        AdapterUsage,
        Caller,
        Chunk,
        Completion,
        Description,
        FinishReason,
        LeftOut,
        Limits,
        Message,
        PartEnd,
        PartUsage,
        RamoleClient,
        ReindexProgress,
        Request,
        Revoked,
        Route,
        RoutedAdapter,
        Routing,
        Samples,
        SamplesFormat,
        ServiceStatus,
        StepSnapshot,
        SyncRamoleClient,
        TierStatus,
        TopTokens,
        Uploaded,
        Usage,
        UseAdapter,
        Version,
        read_samples,
    )
    from ramole.core.composition import PRESETS, Composition, Expert, Merge, Reroute, Weighting
    from ramole.core.errors import (
        AdapterRefused,
        AlreadyExists,
        Cancelled,
        Conflict,
        Corrupt,
        DeadlineExceeded,
        EncoderMismatch,
        ExpertUnavailable,
        Internal,
        InvalidInput,
        LimitExceeded,
        NotFound,
        PermissionDenied,
        RamoleError,
        Unauthenticated,
        Unavailable,
        WrongState,
    )
    from ramole.core.names import AdapterRef
    from ramole.core.sampling import Sampling
    from ramole.core.settings import ExecutorSettings
    from ramole.executor.offline import OfflineEngine

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AdapterRecord",
    "AdapterRef",
    "AdapterRefused",
    "AdapterUsage",
    "AlreadyExists",
    "Caller",
    "Cancelled",
    "Chunk",
    "Completion",
    "Composition",
    "Conflict",
    "Corrupt",
    "DeadlineExceeded",
    "Description",
    "EncoderMismatch",
    "ExecutorSettings",
    "Expert",
    "ExpertUnavailable",
    "FinishReason",
    "Internal",
    "InvalidInput",
    "LeftOut",
    "LimitExceeded",
    "Limits",
    "Merge",
    "Message",
    "NotFound",
    "OfflineEngine",
    "PartEnd",
    "PartUsage",
    "PermissionDenied",
    "RamoleClient",
    "RamoleError",
    "ReindexProgress",
    "Request",
    "Reroute",
    "Revoked",
    "Route",
    "RoutedAdapter",
    "Routing",
    "Samples",
    "SamplesFormat",
    "Sampling",
    "ServiceStatus",
    "StepSnapshot",
    "SyncRamoleClient",
    "TierStatus",
    "TopTokens",
    "Unauthenticated",
    "Unavailable",
    "Uploaded",
    "Usage",
    "UseAdapter",
    "Version",
    "Weighting",
    "WrongState",
    "__version__",
    "read_samples",
]

# Looked through in this order: what costs least to import comes first.
_HOMES = (
    "ramole.core.errors",
    "ramole.core.names",
    "ramole.core.composition",
    "ramole.core.sampling",
    "ramole.client",
    "ramole.core.settings",
    "ramole.executor.offline",
)

if not _typing.TYPE_CHECKING:  # for a type checker, any other name is a mistake

    def __getattr__(name: str) -> object:
        if name in __all__:
            try:
                home = next(home for home in map(_import_module, _HOMES) if hasattr(home, name))
            except ModuleNotFoundError as error:
                raise ImportError(f"ramole.{name} needs {error.name}: pip install 'ramole[serve]'") from error
            globals()[name] = value = getattr(home, name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
