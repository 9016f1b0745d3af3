"""The store: what exists, durably. One process writes to a store; threads of it may call anything here at any time.

    <root>/lock                                     held while open
    <root>/scratch/                                 drafts and spooled uploads; emptied at start
    <root>/objects/<aa>/<digest>/                   see `objects`
    <root>/manifests/<tenant>/<name>/               see `manifests`

Order makes crashes harmless: an object is complete before a manifest names it, and freed after the last one is gone.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import IO

from ramole.adapters.catalog import Accept, Catalog, Position
from ramole.adapters.manifests import ManifestFolder
from ramole.adapters.objects import Content, ObjectFolder
from ramole.adapters.records import AdapterRecord, NewAdapter, State
from ramole.core.errors import AlreadyExists, Conflict, NotFound, Unavailable, WrongState
from ramole.core.names import AdapterName, AdapterRef

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Repair:
    """What opening the store found.

    Attributes:
        num_staged: versions that were never published; removed.
        num_objects: files that no version refers to; removed.
        num_unreadable: manifests that could not be read; left alone, and logged one by one.
    """

    num_staged: int = 0
    num_objects: int = 0
    num_unreadable: int = 0


class Store:
    """Adapters on a local folder. Made by `open`.

    Attributes:
        scratch: folder on the store's file system, for uploads until `put` takes them.
        repaired: what opening found.
    """

    def __init__(self, root: Path, lock: IO[bytes], catalog: Catalog) -> None:
        self.scratch = root / "scratch"
        self._objects = ObjectFolder(root / "objects", self.scratch)
        self._manifests = ManifestFolder(root / "manifests", self.scratch)
        self._catalog = catalog
        self._file_lock = lock
        self._writing = Lock()
        self.repaired = Repair()

    @classmethod
    def open(cls, root: Path) -> Store:
        """Opens a store, or makes an empty one, and removes what a crash left behind.

        Raises:
            Unavailable: another process has it open.
        """
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise Unavailable(
                f"the store {root} is open in another process",
                field="data_dir",
                remedy="stop it, or give every server a data_dir of its own",
            ) from None
        store = cls(root, lock, Catalog())
        store.repaired = store._repair()
        _log.info("store %s is open: %s", root, store.repaired)
        return store

    def close(self) -> None:
        """Lets other processes open the store."""
        self._file_lock.close()

    def put(self, new: NewAdapter) -> tuple[AdapterRecord, bool]:
        """Stores the next version of a name as staged.

        Returns:
            The record, and whether it was made. It was not when the idempotency key belongs to the same upload, or when
            the latest live version has the same files, samples, base and visibility already.

        Raises:
            AlreadyExists: the idempotency key belongs to another upload.
            Conflict: expected_version is not the latest live version (0 = there must be none).
        """
        with self._writing:
            record = self._draft(new)
            keyed = self._catalog.by_idempotency_key(new.name.tenant, new.idempotency_key)
            if keyed is not None:
                if not keyed.is_same_upload(record):
                    raise AlreadyExists(
                        f"idempotency key {new.idempotency_key!r} was used for {keyed.ref}",
                        field="idempotency_key",
                        remedy="use a fresh key for every new upload",
                    )
                return keyed, False
            self._check_expected(record)
            latest = self._catalog.get(new.name)
            if latest is not None and latest.is_same_upload(record):
                return latest, False
            self._objects.add(new.digest, new.config_json, new.tensors_path)
            self._save(record)
            return record, True

    def publish(self, ref: AdapterRef) -> AdapterRecord:
        """Makes a staged version live, durably. Doing it again changes nothing.

        Raises:
            NotFound: there is no such version with this digest.
            Conflict: another version went live since an upload with expected_version.
        """
        with self._writing:
            record = self._at(ref)
            if record.is_live:
                return record
            self._check_expected(record)
            record = record.published()
            self._save(record)
            return record

    def discard(self, ref: AdapterRef) -> None:
        """Drops a staged version. Missing is fine. Raises WrongState when it is live."""
        with self._writing:
            try:
                record = self._at(ref)
            except NotFound:
                return
            if record.is_live:
                raise WrongState(f"{ref} is live", field="adapter", remedy="delete or revoke it instead")
            self._remove(ref)

    def delete(self, name: AdapterName) -> list[AdapterRef]:
        """Removes one live version, or all live versions when none is pinned.

        Raises:
            NotFound: there is none.
        """
        with self._writing:
            versions = self._catalog.live_versions(AdapterName(name.tenant, name.name))
            refs = [record.ref for record in versions if name.version in (0, record.ref.version)]
            if not refs:
                raise _not_found(name)
            for ref in refs:
                self._remove(ref)
            return refs

    def get(self, name: AdapterName) -> AdapterRecord:
        """The pinned version in any state, or the latest live one. Raises NotFound."""
        record = self._catalog.get(name)
        if record is None:
            raise _not_found(name)
        return record

    def page(self, after: Position | None, size: int, accept: Accept) -> Sequence[AdapterRecord]:
        """Up to `size` live records that `accept` takes, behind a position, by (tenant, name, version)."""
        return self._catalog.page(after, size, lambda record: record.is_live and accept(record))

    def has_digest(self, digest: str) -> bool:
        """Whether any version has this content."""
        return self._catalog.has_digest(digest)

    def read(self, digest: str) -> Content:
        """Reads and verifies the files of a digest. Raises NotFound or Corrupt."""
        return self._objects.read(digest)

    def _repair(self) -> Repair:
        """Empties scratch, reads the manifests, drops staged versions and objects that no manifest names."""
        if self.scratch.exists():
            shutil.rmtree(self.scratch)
        self.scratch.mkdir()
        loaded = self._manifests.load()
        for name, version in loaded.last_versions.items():
            self._catalog.use_versions(name, version)
        for record in loaded.records:
            self._catalog.put(record)
        staged = [record.ref for record in loaded.records if not record.is_live]
        for ref in staged:
            self._remove(ref)
        # An unreadable manifest may name any object: then none is freed.
        orphans = [] if loaded.num_unreadable else [d for d in self._objects.digests() if not self.has_digest(d)]
        for digest in orphans:
            self._objects.remove(digest)
        return Repair(len(staged), len(orphans), loaded.num_unreadable)

    def _draft(self, new: NewAdapter) -> AdapterRecord:
        version = self._catalog.last_version(new.name) + 1
        return AdapterRecord(
            ref=AdapterRef(new.name.tenant, new.name.name, version, new.digest),
            base_model=new.base_model,
            state=State.STAGED,
            is_public=new.is_public,
            report=new.report,
            samples=new.samples,
            created_at=datetime.now(UTC),
            idempotency_key=new.idempotency_key,
            expected_version=new.expected_version,
        )

    def _check_expected(self, record: AdapterRecord) -> None:
        latest = self._catalog.get(record.name)
        version = 0 if latest is None else latest.ref.version
        if record.expected_version not in (None, version):
            raise Conflict(
                f"{record.name} is at version {version}, not {record.expected_version}",
                field="expected_version",
                remedy="read the adapter again and retry",
            )

    def _at(self, ref: AdapterRef) -> AdapterRecord:
        record = self._catalog.get(AdapterName(ref.tenant, ref.name, ref.version))
        if record is None or record.ref != ref:
            raise NotFound(f"there is no {ref} with digest {ref.digest}", field="adapter")
        return record

    def _save(self, record: AdapterRecord) -> None:
        self._manifests.write(record)
        self._catalog.put(record)

    def _remove(self, ref: AdapterRef) -> None:
        self._manifests.remove(ref, self._catalog.last_version(AdapterName(ref.tenant, ref.name)))
        self._catalog.remove(ref)
        if not self.has_digest(ref.digest):
            self._objects.remove(ref.digest)


def _not_found(name: AdapterName) -> NotFound:
    return NotFound(f"there is no adapter {name}", field="adapter", remedy="list the adapters to see what exists")
