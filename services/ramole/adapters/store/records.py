"""Everything known about one version: before it is stored, afterwards, and as JSON in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ramole.core.names import AdapterName, AdapterRef, check_digest
from ramole.lora.admission import AdmissionReport

FORMAT = 2


class State(StrEnum):
    """Life of a version: staged by Put, live from Publish on."""

    STAGED = "staged"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One version of an adapter.

    Attributes:
        num_bytes: size of both files.
        num_samples: how many typical inputs place the adapter in the retriever's space.
        samples_sha256: of these inputs.
        samples: the inputs themselves; empty where the record is one of many in memory, see `Store.with_samples`.
        idempotency_key: of the upload that made the version; empty if none.
        expected_version: the upload's compare-and-swap condition, checked again when it goes live; None if none.
        source: what the content came from: a URI, or ``tenant/name@version`` after a rollback; empty = bytes.
    """

    ref: AdapterRef
    base_model: str
    state: State
    is_public: bool
    report: AdmissionReport
    num_bytes: int
    num_samples: int
    samples_sha256: str
    created_at: datetime
    samples: tuple[str, ...] = ()
    idempotency_key: str = ""
    expected_version: int | None = None
    source: str = ""

    @property
    def name(self) -> AdapterName:
        """``tenant/name``, without the version."""
        return AdapterName(self.ref.tenant, self.ref.name)

    @property
    def is_live(self) -> bool:
        """Whether it has been published."""
        return self.state is State.LIVE

    def published(self) -> AdapterRecord:
        """The same version, live."""
        return replace(self, state=State.LIVE)

    def restaged(self, version: int, expected_version: int | None) -> AdapterRecord:
        """The content and samples of this version, made now, staged as another version of its name."""
        return replace(
            self,
            ref=replace(self.ref, version=version),
            state=State.STAGED,
            created_at=datetime.now(UTC),
            idempotency_key="",
            expected_version=expected_version,
            source=str(self.ref),
        )

    def is_same_upload(self, other: AdapterRecord) -> bool:
        """Whether a client that sends `other` asks for what this version already is."""
        return self._content() == other._content()

    def _content(self) -> tuple[object, ...]:
        return self.name, self.ref.digest, self.base_model, self.is_public, self.samples_sha256


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """An admitted upload.

    Attributes:
        tensors_path: the tensors file inside `Store.scratch`, synced to disk; `Store.put` may move it away.
        num_bytes: size of both files.
        digest: of both files.
        expected_version: see `Store.put`.
        source: see `AdapterRecord`.
    """

    name: AdapterName
    base_model: str
    is_public: bool
    samples: tuple[str, ...]
    idempotency_key: str
    expected_version: int | None
    report: AdmissionReport
    num_bytes: int
    digest: str
    config_json: bytes
    tensors_path: Path
    source: str = ""

    def staged(self, version: int) -> AdapterRecord:
        """This upload as a version made now, without its samples."""
        return AdapterRecord(
            ref=AdapterRef(self.name.tenant, self.name.name, version, self.digest),
            base_model=self.base_model,
            state=State.STAGED,
            is_public=self.is_public,
            report=self.report,
            num_bytes=self.num_bytes,
            num_samples=len(self.samples),
            samples_sha256=samples_sha256(self.samples),
            created_at=datetime.now(UTC),
            idempotency_key=self.idempotency_key,
            expected_version=self.expected_version,
            source=self.source,
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """What is remembered of a version that is gone.

    Attributes:
        reason: ``deleted``, ``revoked`` or ``expired`` (by retention).
        comment: of whoever removed it.
    """

    ref: AdapterRef
    created_at: datetime
    removed_at: datetime
    reason: str
    comment: str = ""


def samples_sha256(samples: tuple[str, ...]) -> str:
    """Identity of a list of samples."""
    return hashlib.sha256(json.dumps(samples).encode()).hexdigest()


def record_to_raw(record: AdapterRecord) -> dict[str, Any]:
    """The manifest of a version, as plain values."""
    report = record.report
    return {
        "format": FORMAT,
        **_ref_to_raw(record.ref),
        "base_model": record.base_model,
        "state": record.state.value,
        "is_public": record.is_public,
        "report": {
            "modules": report.modules,
            "rank": report.rank,
            "num_bytes": report.num_bytes,
            "norm": report.norm,
            "relative_norm": report.relative_norm,
        },
        "num_bytes": record.num_bytes,
        "num_samples": record.num_samples,
        "samples_sha256": record.samples_sha256,
        "samples": record.samples,
        "created_at": record.created_at.isoformat(),
        "idempotency_key": record.idempotency_key,
        "expected_version": record.expected_version,
        "source": record.source,
    }


def record_from_raw(raw: Mapping[str, Any]) -> AdapterRecord:
    """The inverse. Raises ValueError, KeyError, TypeError or AttributeError when it is none, or of another format."""
    if raw["format"] != FORMAT:
        raise ValueError(f"manifest format {raw['format']!r} is not known")
    report = raw["report"]
    return AdapterRecord(
        ref=_ref_from_raw(raw),
        base_model=raw["base_model"],
        state=State(raw["state"]),
        is_public=raw["is_public"],
        report=AdmissionReport(
            tuple(report["modules"]),
            report["rank"],
            report["num_bytes"],
            report["norm"],
            report.get("relative_norm"),
        ),
        num_bytes=raw["num_bytes"],
        num_samples=raw["num_samples"],
        samples_sha256=raw["samples_sha256"],
        samples=tuple(raw["samples"]),
        created_at=datetime.fromisoformat(raw["created_at"]),
        idempotency_key=raw["idempotency_key"],
        expected_version=raw["expected_version"],
        source=raw["source"],
    )


def removal_to_raw(removal: Removal) -> dict[str, Any]:
    """What takes the place of a manifest, as plain values."""
    return {
        "format": FORMAT,
        **_ref_to_raw(removal.ref),
        "created_at": removal.created_at.isoformat(),
        "removed_at": removal.removed_at.isoformat(),
        "reason": removal.reason,
        "comment": removal.comment,
    }


def removal_from_raw(raw: Mapping[str, Any]) -> Removal:
    """The inverse. Raises ValueError, KeyError or TypeError when it is not one."""
    return Removal(
        _ref_from_raw(raw),
        datetime.fromisoformat(raw["created_at"]),
        datetime.fromisoformat(raw["removed_at"]),
        raw["reason"],
        raw["comment"],
    )


def _ref_to_raw(ref: AdapterRef) -> dict[str, Any]:
    return {"tenant": ref.tenant, "name": ref.name, "version": ref.version, "digest": ref.digest}


def _ref_from_raw(raw: Mapping[str, Any]) -> AdapterRef:
    return AdapterRef(raw["tenant"], raw["name"], raw["version"], check_digest(raw["digest"]))
