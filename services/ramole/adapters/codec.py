"""Protobuf <-> values of this service, and the opaque page token."""

from __future__ import annotations

import base64
import binascii
import json

from google.protobuf.timestamp_pb2 import Timestamp

from ramole.adapters.intake.upload import UploadHeader
from ramole.adapters.store.catalog import Position
from ramole.adapters.store.records import AdapterRecord, Removal
from ramole.core import access
from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterRef, check_tags
from ramole.transport.values import ref_to_pb
from ramole.v1 import records_pb2


def header_from_pb(message: records_pb2.UploadHeader) -> UploadHeader:
    """The header of an upload. Raises InvalidInput on a bad name or tag, PermissionDenied on another tenant's."""
    return UploadHeader(
        name=access.named_to_change(message.adapter, field="header.adapter"),
        # One typical input counts once: repeating it must not move the adapter in the retriever's space.
        samples=tuple(dict.fromkeys(message.samples)),
        base_model=message.base_model,
        idempotency_key=message.idempotency_key,
        expected_version=message.expected_version if message.HasField("expected_version") else None,
        is_public=message.is_public,
        sha256=dict(message.sha256),
        source=message.source,
        tags=check_tags(message.tags, field="header.tags"),
        is_named_only=message.is_named_only,
    )


def record_to_pb(record: AdapterRecord) -> records_pb2.AdapterRecord:
    """One version, for the wire, with the samples that it carries."""
    created_at = Timestamp()
    created_at.FromDatetime(record.created_at)
    return records_pb2.AdapterRecord(
        source=record.source,
        adapter=ref_to_pb(record.ref),
        base_model=record.base_model,
        is_public=record.is_public,
        report=records_pb2.AdmissionReport(
            modules=record.report.modules,
            rank=record.report.rank,
            bytes=record.num_bytes,
            norm=record.report.norm,
            relative_norm=record.report.relative_norm,
            num_samples=record.num_samples,
        ),
        samples=record.samples,
        created_at=created_at,
        tags=record.tags,
    )


def version_to_pb(version: AdapterRecord | Removal) -> records_pb2.HistoryEntry:
    """One line of a history."""
    entry = records_pb2.HistoryEntry(adapter=ref_to_pb(version.ref))
    entry.created_at.FromDatetime(version.created_at)
    if isinstance(version, Removal):
        entry.removed_at.FromDatetime(version.removed_at)
        entry.removal, entry.comment = version.reason, version.comment
    else:
        entry.source = version.source
    return entry


def page_token(last: AdapterRef) -> str:
    """Stands for the page that begins behind `last`."""
    position = [last.tenant, last.name, last.version]
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def position_from_token(token: str) -> Position | None:
    """The inverse; None for the empty token of the first page. Raises InvalidInput on any other text."""
    if not token:
        return None
    try:
        tenant, name, version = json.loads(base64.b64decode(token[:512], altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        tenant = name = version = None
    if isinstance(tenant, str) and isinstance(name, str) and type(version) is int:
        return tenant, name, version
    raise InvalidInput("not a page token of this server", field="page_token", remedy="use next_page_token unchanged")
