"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ramole.adapters.store.writer import FolderLock
from ramole.core.errors import RamoleError, Unavailable
from ramole.core.settings import Settings

if TYPE_CHECKING:
    from ramole.client import Description
    from ramole.executor.memory_plan import DeviceFacts, Plan


class Verdict(StrEnum):
    """How bad it is: a server serves with warnings, and does not with what failed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Attributes:
        says: in one sentence.
        field: the setting at fault; '' = none.
        remedy: what to do; '' = nothing.
    """

    verdict: Verdict
    says: str
    field: str = ""
    remedy: str = ""

    @classmethod
    def ok(cls, says: str) -> Self:
        """All is well."""
        return cls(Verdict.OK, says)

    @classmethod
    def warning(cls, says: str, remedy: str, *, field: str = "") -> Self:
        """It works, and might not for long, or not as meant."""
        return cls(Verdict.WARNING, says, field, remedy)

    @classmethod
    def failed(cls, says: str, remedy: str, *, field: str = "") -> Self:
        """It does not work."""
        return cls(Verdict.FAILED, says, field, remedy)

    @classmethod
    def of(cls, error: RamoleError) -> Self:
        """What a start would say."""
        return cls(Verdict.FAILED, error.message, error.field, error.remedy)


@dataclass(frozen=True, slots=True)
class Access:
    """How to ask a server. '' = nothing is given.

    Attributes:
        address: of one that may be elsewhere; '' = the one that these settings are of, if it runs.
        ca: PEM file.
    """

    address: str = ""
    key: str = ""
    ca: str = ""


@dataclass(slots=True)
class Case:
    """The system that is looked at, and what has been found out about it.

    Attributes:
        settings: resolved.
        encoder_id: of the encoder that the settings name; '' = it could not be loaded.
        wanted: what the index must hold, as ``tenant/name@version digest``; None = the store could not be read.
        server: what the server says of itself; None = it was not asked, or has not answered.
        device: that of the engine; None = there is none.
        widest_rank: of the adapters in the store for this base model.
        plan: what the executor would take; None = it would not start.
        skew_s: how far its clock is ahead of this machine's; None = not known.
    """

    settings: Settings
    access: Access
    encoder_id: str = ""
    wanted: set[str] | None = None
    server: Description | None = None
    device: DeviceFacts | None = None
    widest_rank: int = 0
    plan: Plan | None = None
    skew_s: float | None = None
    _runs: bool | None = field(default=None, init=False)

    @property
    def store_folder(self) -> Path:
        """Of the store's lock, and of the store if it is local."""
        return self.settings.data_dir / "store"

    @property
    def runs(self) -> bool:
        """Whether a server has the data folder open. Holds its lock for a moment, if nobody does."""
        if self._runs is None:
            self._runs = False
            if (self.store_folder / "lock").exists():
                try:
                    FolderLock(self.store_folder).close()
                except Unavailable:
                    self._runs = True
        return self._runs
