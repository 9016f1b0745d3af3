"""Everything known about one version: before it is stored, afterwards, and as JSON on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from ramole.core.names import AdapterName, AdapterRef, check_digest
from ramole.lora.admission import AdmissionReport


class State(StrEnum):
    """Life of a version: staged by Put, live from Publish on."""

    STAGED = "staged"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One version of an adapter.

    Attributes:
        samples: typical inputs; they place the adapter in the retriever's space.
        idempotency_key: of the upload that made the version; empty if none.
        expected_version: the upload's compare-and-swap condition, checked again when it goes live; None if none.
    """

    ref: AdapterRef
    base_model: str
    state: State
    is_public: bool
    report: AdmissionReport
    samples: tuple[str, ...]
    created_at: datetime
    idempotency_key: str = ""
    expected_version: int | None = None

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

    def is_same_upload(self, other: AdapterRecord) -> bool:
        """Whether a client that sends `other` asks for what this version already is."""
        return self._content() == other._content()

    def _content(self) -> tuple[object, ...]:
        return self.name, self.ref.digest, self.base_model, self.is_public, self.samples


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """An admitted upload.

    Attributes:
        tensors_path: the tensors file inside `Store.scratch`, synced to disk; `Store.put` moves it away.
        digest: of both files.
        expected_version: see `Store.put`.
    """

    name: AdapterName
    base_model: str
    is_public: bool
    samples: tuple[str, ...]
    idempotency_key: str
    expected_version: int | None
    report: AdmissionReport
    digest: str
    config_json: bytes
    tensors_path: Path


def record_to_json(record: AdapterRecord) -> bytes:
    """The manifest of a version."""
    manifest = {
        "format": 1,
        "tenant": record.ref.tenant,
        "name": record.ref.name,
        "version": record.ref.version,
        "digest": record.ref.digest,
        "base_model": record.base_model,
        "state": record.state.value,
        "is_public": record.is_public,
        "report": {
            "modules": record.report.modules,
            "rank": record.report.rank,
            "num_bytes": record.report.num_bytes,
            "norm": record.report.norm,
        },
        "samples": record.samples,
        "created_at": record.created_at.isoformat(),
        "idempotency_key": record.idempotency_key,
        "expected_version": record.expected_version,
    }
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()


def record_from_json(data: bytes) -> AdapterRecord:
    """Reads a manifest. Raises ValueError, KeyError or TypeError when it is not one, or of a newer format."""
    raw = json.loads(data)
    if raw["format"] != 1:
        raise ValueError(f"manifest format {raw['format']!r} is not known")
    report = raw["report"]
    return AdapterRecord(
        ref=AdapterRef(raw["tenant"], raw["name"], raw["version"], check_digest(raw["digest"])),
        base_model=raw["base_model"],
        state=State(raw["state"]),
        is_public=raw["is_public"],
        report=AdmissionReport(tuple(report["modules"]), report["rank"], report["num_bytes"], report["norm"]),
        samples=tuple(raw["samples"]),
        created_at=datetime.fromisoformat(raw["created_at"]),
        idempotency_key=raw["idempotency_key"],
        expected_version=raw["expected_version"],
    )
