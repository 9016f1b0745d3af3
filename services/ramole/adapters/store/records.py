"""Everything known about one version: before it is stored, afterwards, and as JSON in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterName, AdapterRef, check_digest
from ramole.lora.admission import AdmissionReport

FORMAT = 2
_ADDED = frozenset({"tags"})
"""What manifests of this format lack that were written before it was thought of; they mean its default."""
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, InvalidInput)
"""What reading a manifest raises when it is none."""

_Time = Annotated[datetime, BeforeValidator(datetime.fromisoformat), PlainSerializer(datetime.isoformat)]


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
        tags: what requests may filter by; sorted.
    """

    ref: AdapterRef
    base_model: str
    state: State
    is_public: bool
    report: AdmissionReport
    num_bytes: int
    num_samples: int
    samples_sha256: str
    created_at: _Time
    samples: tuple[str, ...] = ()
    idempotency_key: str = ""
    expected_version: int | None = None
    source: str = ""
    tags: tuple[str, ...] = ()

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
        return self.name, self.ref.digest, self.base_model, self.is_public, self.samples_sha256, self.tags


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """An admitted upload.

    Attributes:
        tensors_path: the tensors file inside `Store.scratch`, synced to disk; `Store.put` may move it away.
        num_bytes: size of both files.
        digest: of both files.
        expected_version: see `Store.put`.
        source, tags: see `AdapterRecord`.
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
    tags: tuple[str, ...] = ()

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
            tags=self.tags,
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """What is remembered of a version that is gone.

    Attributes:
        reason: ``deleted``, ``revoked`` or ``expired`` (by retention).
        comment: of whoever removed it.
    """

    ref: AdapterRef
    created_at: _Time
    removed_at: _Time
    reason: str
    comment: str = ""


def samples_sha256(samples: tuple[str, ...]) -> str:
    """Identity of a list of samples."""
    return hashlib.sha256(json.dumps(samples).encode()).hexdigest()


_RECORD, _REMOVAL = TypeAdapter(AdapterRecord), TypeAdapter(Removal)


def record_to_raw(record: AdapterRecord) -> dict[str, Any]:
    """The manifest of a version, as plain values."""
    return _flat(_RECORD.dump_python(record))


def record_from_raw(raw: Mapping[str, Any]) -> AdapterRecord:
    """The inverse. Raises one of `DAMAGED` when it is none, or of another format."""
    if raw["format"] != FORMAT:
        raise ValueError(f"manifest format {raw['format']!r} is not known")
    return _RECORD.validate_python(_nested(AdapterRecord, raw))


def removal_to_raw(removal: Removal) -> dict[str, Any]:
    """What takes the place of a manifest, as plain values."""
    return _flat(_REMOVAL.dump_python(removal))


def removal_from_raw(raw: Mapping[str, Any]) -> Removal:
    """The inverse. Raises one of `DAMAGED` when it is none."""
    return _REMOVAL.validate_python(_nested(Removal, raw))


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, **raw.pop("ref"), **raw}


def _nested(kind: type[AdapterRecord | Removal], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every field must be there, those with a default too but for `_ADDED`; the reference lies in the manifest."""
    check_digest(raw["digest"])
    names = (each.name for each in fields(kind) if each.name in raw or each.name not in _ADDED)
    return {name: raw if name == "ref" else raw[name] for name in names}
