"""Who did what to the repository, and how it ended: JSON lines, in a file or on an object store."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Protocol

from ramole.adapters.store.files import Files, open_remote
from ramole.core.call import current_call
from ramole.core.errors import RamoleError
from ramole.core.names import AdapterRef
from ramole.core.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class AuditEntry:
    """One action of one call.

    Attributes:
        action: ``upload``, ``rollback``, ``publish``, ``discard``, ``delete``, ``revoke`` or ``expire``.
        adapter: as the caller named it; without a tenant, one of its own.
        refs: the versions that it was done to; one line each, and none when it found nothing to do.
        detail: what else is worth knowing: source, comment.
    """

    action: str
    adapter: str
    refs: list[AdapterRef] = field(default_factory=list)
    detail: str = ""


class AuditSink(Protocol):
    """Where the lines go. Safe in any thread."""

    def append(self, lines: bytes) -> None:
        """Durably all of them, or none. Raises OSError or RamoleError."""


class AuditFile:
    """A local file. It may be moved away at any time; the next line begins a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def append(self, lines: bytes) -> None:
        """See `AuditSink`."""
        with self._lock:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                _append(handle, lines)
            finally:
                os.close(handle)


class AuditObjects:
    """An object for each action, as object stores append to none: ``2026/11/29/<time>-<random>.jsonl``."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def append(self, lines: bytes) -> None:
        """See `AuditSink`."""
        now = datetime.now(UTC)
        self._files.create(f"{now:%Y/%m/%d/%H%M%S.%f}-{secrets.token_hex(4)}.jsonl", lines)


def open_audit(settings: Settings) -> AuditLog:
    """The log that the settings name.

    Raises:
        WrongState: the URI's file system is not installed, or the URI is malformed.
    """
    options = settings.adapters
    if not options.audit_uri:
        return AuditLog(AuditFile(settings.data_dir / "audit.jsonl"))
    return AuditLog(AuditObjects(open_remote(options.audit_uri, options.store_options, field="adapters.audit_uri")))


class AuditLog:
    """The log of one store."""

    def __init__(self, sink: AuditSink) -> None:
        self._sink = sink

    @asynccontextmanager
    async def entry(self, action: str, adapter: str) -> AsyncIterator[AuditEntry]:
        """Around an action, which completes the entry: written on the way out, with the error if there was one.

        It is durable before the caller hears of the outcome. A line that cannot be written is an error in the server's
        own log: what has been done stays done.
        """
        entry = AuditEntry(action, adapter)
        try:
            yield entry
        except BaseException as error:
            reason = error.message if isinstance(error, RamoleError) else ""
            await asyncio.shield(asyncio.to_thread(self._write, entry, type(error).__name__, reason))
            raise
        await asyncio.to_thread(self._write, entry, "ok", "")

    def _write(self, entry: AuditEntry, outcome: str, reason: str) -> None:
        call = current_call()
        common = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "tenant": call.principal.tenant,
            "who": call.principal.name,
            "request_id": call.request_id,
            "action": entry.action,
        }
        places = [{"adapter": str(ref), "digest": ref.digest} for ref in entry.refs]
        if outcome != "ok":
            places = places or [{"adapter": entry.adapter, "digest": ""}]
        end = {"outcome": outcome, "reason": reason, "detail": entry.detail}
        lines = [json.dumps({**common, **place, **end}) for place in places]
        if not lines:
            return
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            self._sink.append(data)
        except (OSError, RamoleError):
            _log.exception("the audit log cannot be written: %s", data.decode())


def _append(handle: int, data: bytes) -> None:
    """Durably all of it, or none: half a line would spoil the next one. Raises OSError."""
    end = os.fstat(handle).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, end)
        raise
