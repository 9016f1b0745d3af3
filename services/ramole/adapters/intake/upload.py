"""One upload on its way in: checked while it streams, spooled to disk so that memory holds a chunk and not a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from ramole.adapters.intake.spools import SpoolRoom
from ramole.core.bounds import check_text, check_texts
from ramole.core.errors import Cancelled, InvalidInput, LimitExceeded
from ramole.core.names import AdapterName, check_digest
from ramole.lora.config import MAX_CONFIG_BYTES
from ramole.lora.content import map_file
from ramole.lora.digest import content_digest
from ramole.lora.files import CONFIG_FILE, FILES, TENSORS_FILE
from ramole.tiers.full_disk import told_when_full


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """What a client says about its files; see `UploadHeader` of the protocol. Not yet checked."""

    name: AdapterName
    samples: tuple[str, ...]
    base_model: str = ""
    idempotency_key: str = ""
    expected_version: int | None = None
    is_public: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    tags: tuple[str, ...] = ()
    is_named_only: bool = False


@dataclass(frozen=True, slots=True)
class ReceivedUpload:
    """A complete upload. Its tensors lie in `tensors_path` until the `Upload` is closed, or `Store.put` moves them."""

    header: UploadHeader
    config_json: bytes
    tensors_path: Path
    num_bytes: int
    digest: str

    def tensors(self) -> memoryview:
        """The tensors file, mapped and not read."""
        return map_file(self.tensors_path)


class Upload:
    """Assembles one stream. A context manager: leaving it removes what is spooled.

    Args:
        scratch: where to spool.
        max_bytes: of both files together.
        max_samples: most sample inputs of one adapter.
        room: what all uploads in flight share.
    """

    def __init__(self, scratch: Path, max_bytes: int, max_samples: int, room: SpoolRoom) -> None:
        self._max_bytes = max_bytes
        self._max_samples = max_samples
        self._room = room
        self._num_bytes = 0
        # A fetch whose caller has gone may still write.
        self._writing = Lock()
        self._has_ended = False
        self._header: UploadHeader | None = None
        self._config = bytearray()
        self._path = scratch / f"upload-{uuid4().hex}"
        self._hashes = {name: hashlib.sha256() for name in FILES}

    def __enter__(self) -> Self:
        with told_when_full():
            self._spool: IO[bytes] = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._writing:
            self._has_ended = True
            try:
                # What a full disk does not take any more is thrown away anyhow.
                with suppress(OSError):
                    self._spool.close()
            finally:
                self._room.give_back(self._num_bytes)
                self._path.unlink(missing_ok=True)

    def begin(self, header: UploadHeader) -> None:
        """Takes the header, before any chunk and once.

        Raises:
            InvalidInput: out of order, or a value that is out of its range.
        """
        if self._header is not None:
            raise InvalidInput("a second header", field="header", remedy="send one header, then chunks")
        _check_header(header, self._max_samples)
        self._header = header

    @property
    def source(self) -> str:
        """Where the files are fetched from; empty: they come in the stream. Raises InvalidInput: no header."""
        return self._begun().source

    def fetched_from(self, uri: str) -> None:
        """Says more exactly where the files come from than the header did."""
        self._header = replace(self._begun(), source=uri)

    def write(self, file: str, data: bytes) -> None:
        """Takes the next bytes of a file from the stream.

        Raises:
            InvalidInput: no header yet, another file, or a header that names a source.
            LimitExceeded: the upload has become too large, all in flight have together, or the disk is full.
            Cancelled: the upload has ended.
        """
        if self.source:
            raise InvalidInput(
                "bytes in an upload that names a source", field="chunk", remedy="send bytes or a source, not both"
            )
        self.write_fetched(file, data)

    def write_fetched(self, file: str, data: bytes) -> None:
        """Takes the next bytes of a file from the source. Raises as `write`."""
        header = self._begun()
        if file not in FILES:
            raise InvalidInput(
                f"file {file[:80]!r} is not taken",
                field="chunk.file",
                remedy=f"upload {CONFIG_FILE} and {TENSORS_FILE}; pickle files are never read",
            )
        with self._writing:
            if self._has_ended:
                raise Cancelled("the upload has ended")
            self._check_size(file, len(data))
            self._room.take(len(data))
            self._num_bytes += len(data)
            if file in header.sha256:
                self._hashes[file].update(data)
            if file == CONFIG_FILE:
                self._config += data
                return
            with told_when_full():
                self._spool.write(data)

    def finish(self) -> ReceivedUpload:
        """Ends the stream: both files are there and on disk.

        Raises:
            InvalidInput: a file is missing, or is not the one whose sha256 was announced.
            LimitExceeded: the disk is full.
        """
        header = self._begun()
        if not self._config or not self._spool.tell():
            missing = TENSORS_FILE if self._config else CONFIG_FILE
            raise InvalidInput(f"{missing} is missing or empty", field="chunk.file", remedy="upload both files")
        for file, expected in header.sha256.items():
            if self._hashes[file].hexdigest() != expected:
                raise _bad("sha256", f"{file} arrived with another sha256 than announced", "upload it again")
        with told_when_full():
            self._spool.flush()
            os.fsync(self._spool.fileno())
            self._spool.close()
        config_json = bytes(self._config)
        digest = content_digest(config_json, map_file(self._path))
        return ReceivedUpload(header, config_json, self._path, self._num_bytes, digest)

    def _check_size(self, file: str, num_bytes: int) -> None:
        """Of the next bytes."""
        is_config_too_large = file == CONFIG_FILE and len(self._config) + num_bytes > MAX_CONFIG_BYTES
        if self._num_bytes + num_bytes > self._max_bytes or is_config_too_large:
            limit = MAX_CONFIG_BYTES if is_config_too_large else self._max_bytes
            raise LimitExceeded(
                f"{file if is_config_too_large else 'the upload'} is larger than {limit} bytes",
                field="chunk.data",
                remedy="train with a smaller rank, save in half precision, or raise adapters.max_upload_bytes",
            )

    def _begun(self) -> UploadHeader:
        if self._header is None:
            raise InvalidInput("no header", field="header", remedy="send the header first")
        return self._header


def _check_header(header: UploadHeader, max_samples: int) -> None:
    samples = header.samples
    if header.name.version:
        raise _bad("adapter", f"{header.name} pins a version", "leave it out; the server numbers versions")
    if header.is_named_only and samples:
        raise _bad("samples", "samples of an adapter that is only named", "leave them out, or is_named_only")
    if not header.is_named_only and not 1 <= len(samples) <= max_samples:
        raise _bad("samples", f"{len(samples)} samples", f"give 1 to {max_samples} typical inputs of the adapter")
    for number, sample in enumerate(samples, start=1):
        if not sample.strip():
            raise _bad("samples", f"sample {number} is empty or blank", "give typical inputs of the adapter")
    check_texts("header.samples", samples)
    check_text("header.idempotency_key", header.idempotency_key)
    check_text("header.base_model", header.base_model)
    for file, digest in header.sha256.items():
        if file not in FILES:
            raise _bad("sha256", f"{file[:80]!r} is not taken", f"use the keys {' and '.join(FILES)}")
        check_digest(digest, field="header.sha256")


def _bad(field: str, message: str, remedy: str) -> InvalidInput:
    return InvalidInput(message, field=f"header.{field}", remedy=remedy)
