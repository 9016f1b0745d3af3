"""The store: what exists, durably. One process writes to a store; threads of it may call anything here at any time.

    <folder>/lock             held while open
    <folder>/scratch/         drafts and spooled uploads; emptied at start
    writer                    who opened it last; only that process may change it
    catalog.json, manifests/  see `manifests`
    objects/                  see `objects`
    revoked/                  see `revocations`

All but lock and scratch lie in the folder too, or below an fsspec URI. Order makes crashes harmless: an object is
complete before a manifest names it, and freed after the last one is gone. Only the process knows staged versions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from ramole.adapters.store.catalog import Accept, Catalog, Position, TenantUsage, expired
from ramole.adapters.store.collector import Collector
from ramole.adapters.store.files import Files, open_files
from ramole.adapters.store.manifests import Loaded, Manifests
from ramole.adapters.store.objects import Objects
from ramole.adapters.store.records import AdapterRecord, NewAdapter, Removal
from ramole.adapters.store.revocations import Revocations
from ramole.adapters.store.writer import FolderLock, Writer, taken_over
from ramole.core.access import missing
from ramole.core.errors import InvalidInput, NotFound, WrongState
from ramole.core.names import AdapterName, AdapterRef
from ramole.lora.content import Content

_log = logging.getLogger(__name__)

Version = AdapterRecord | Removal
"""What a history is made of."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening the store found.

    Attributes:
        num_live: versions that it serves.
        num_read: manifests that had to be read one by one.
        num_finished: removals that a crash had interrupted; finished.
        num_unreadable: manifests that could not be read; left alone, and logged one by one.
    """

    num_live: int = 0
    num_read: int = 0
    num_finished: int = 0
    num_unreadable: int = 0


class Store:
    """Adapters on a local folder or an object store. Made by `open`.

    Attributes:
        scratch: local folder for uploads until `put` takes them.
        opened: what opening found.
    """

    def __init__(self, scratch: Path, files: Files, lock: FolderLock, writer: Writer, loaded: Loaded) -> None:
        self.scratch = scratch
        self.opened = Opened(len(loaded.records), loaded.num_read, loaded.num_finished, loaded.num_unreadable)
        self._files = files
        self._writer = writer
        self._objects = Objects(files)
        self._manifests = Manifests(files)
        self._revocations = Revocations(files)
        self._catalog = Catalog(loaded.records, loaded.last_versions)
        self._lock = lock
        self._writing = Lock()
        self._collector = Collector(self._objects, self._catalog, writer, self._writing)
        # Samples of staged versions.
        self._staged: dict[AdapterRef, tuple[str, ...]] = {}
        self._is_catalog_old = loaded.num_read > 0 or loaded.num_finished > 0
        self._finish_revocations()

    @classmethod
    def open(cls, folder: Path, uri: str = "", options: Mapping[str, Any] | None = None) -> Store:
        """Opens a store, or makes an empty one, and finishes what a crash interrupted.

        Args:
            folder: local; of one server.
            uri: fsspec URI of the content; empty = `folder`.
            options: arguments of its file system.

        Raises:
            Unavailable: another process has the folder open, or the object store does not answer.
            WrongState: the URI cannot be used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        try:
            scratch = folder / "scratch"
            scratch.mkdir(exist_ok=True)  # and stays: a full disk may not take a new one
            for left in scratch.iterdir():
                left.unlink()
            files = open_files(uri, options or {}, folder=folder, scratch=scratch)
            store = cls(scratch, files, lock, Writer(files), Manifests(files).load())
        except BaseException:
            lock.close()
            raise
        _log.info("store %s is open: %s", uri or folder, store.opened)
        return store

    def close(self) -> None:
        """Lets other processes open the store. Nothing changes it from here any more."""
        with self._writing:
            self._writer.close()
            self._lock.close()

    def check_writer(self) -> None:
        """Raises Unavailable when another server has opened the store since: this one may know too little of it."""
        self._writer.check()

    def follow(self) -> bool:
        """Takes over what another server has changed, if one has become the writer. Returns whether one has.

        Two servers run at once while one cluster takes over from another: what is revoked or uploaded at the new one is
        so at the old one, too, as soon as this has run.
        """
        if not self._writer.is_replaced():
            return False
        live = {record.ref: record for record in self._manifests.load(finishes=False).records}
        with self._writing:
            self._revocations.read()
            known = {record.ref for record in self._catalog.live()}
            for ref in known - live.keys():
                self._catalog.remove(ref)
            for ref in sorted(live.keys() - known, key=str):
                staged = self._catalog.get(AdapterName(ref.tenant, ref.name, ref.version))
                if staged is not None:  # here, and never published: the number is taken
                    del self._staged[staged.ref]
                    self._catalog.remove(staged.ref)
                self._catalog.put(live[ref])
        return True

    def put(
        self, new: NewAdapter, check_usage: Callable[[TenantUsage], None] | None = None
    ) -> tuple[AdapterRecord, bool]:
        """Stores the next version of a name as staged.

        Args:
            check_usage: is told what the tenant would hold then, and raises if that is too much.

        Returns:
            The record, and whether it was made. It was not when the idempotency key belongs to the same upload, or when
            the latest live version has the same files, samples, base and visibility already.

        Raises:
            AlreadyExists: the idempotency key belongs to another upload.
            Conflict: expected_version is not the latest live version (0 = there must be none).
            WrongState: the tenant has revoked this content.
            Unavailable: another server has opened the store since, and numbers the versions.
        """
        self._writer.check()
        self._revocations.check(new.name.tenant, new.digest)
        with self._collector.holding(new.digest):
            with self._writing:
                known = self._catalog.known(new.staged(self._catalog.next_version(new.name)))
                is_stored = self._catalog.has_digest(new.digest)
            if known is not None:
                return replace(known, samples=new.samples), False
            if not is_stored:
                self._objects.add(new.digest, new.config_json, new.tensors_path)
            with self._writing:
                draft = new.staged(self._catalog.next_version(new.name))
                known = self._catalog.known(draft)
                if known is None:
                    if check_usage is not None:
                        check_usage(self._catalog.usage_with(new.name, new.digest, new.num_bytes))
                    self._staged[draft.ref] = new.samples
                    self._catalog.put(draft)
                return replace(known or draft, samples=new.samples), known is None

    def restage(self, name: AdapterName, expected_version: int | None = None) -> tuple[AdapterRecord, bool]:
        """Stages the content and samples of a live version as the next version of its name.

        Returns:
            The record, and whether it was made. It was not when the latest version is like that already.

        Raises:
            InvalidInput: no version is named.
            NotFound: there is no such live version.
            Conflict: see `put`.
        """
        if not name.version:
            raise InvalidInput(f"{name} names no version", field="adapter", remedy="use tenant/name@version")
        old = self.get(name)
        if not old.is_live:
            raise missing(name)
        old = self.with_samples(old)
        with self._writing:
            if self._catalog.get(name) is None:
                raise missing(name)
            draft = old.restaged(self._catalog.next_version(old.name), expected_version)
            known = self._catalog.known(draft)
            if known is None:
                self._staged[draft.ref] = old.samples
                self._catalog.put(replace(draft, samples=()))
            return replace(known or draft, samples=old.samples), known is None

    def publish(self, ref: AdapterRef) -> AdapterRecord:
        """Makes a staged version live, durably. Doing it again changes nothing.

        Raises:
            NotFound: there is no such version with this digest.
            Conflict: another version went live since an upload with expected_version.
            WrongState: the tenant has revoked this content since.
            Unavailable: another server has opened the store since.
        """
        with self._writing:
            try:
                record = self._catalog.at(ref)
            except NotFound:
                self._writer.check()  # another server has made its number that of another version
                raise
            if record.is_live:
                return self.with_samples(record)
            self._revocations.check(ref.tenant, ref.digest)
            self._catalog.check_expected(record.name, record.expected_version)
            record = record.published()
            full = replace(record, samples=self._staged[ref])
            with self._changing():
                try:
                    self._manifests.create(full)
                except FileExistsError:
                    # Perhaps by an earlier try of this call, whose answer was lost.
                    if self._manifests.read(ref) != full:
                        raise taken_over() from None
            del self._staged[ref]
            self._catalog.put(record)
            return full

    def discard(self, ref: AdapterRef) -> None:
        """Drops a staged version. Missing is fine. Raises WrongState when it is live."""
        with self._writing:
            try:
                record = self._catalog.at(ref)
            except NotFound:
                return
            if record.is_live:
                raise WrongState(f"{ref} is live", field="adapter", remedy="delete or revoke it instead")
            # An attempt to publish it may have come further than its answer.
            self._manifests.withdraw(replace(record.published(), samples=self._staged[ref]))
            del self._staged[ref]
            self._catalog.remove(ref)
            self._collector.free(ref.digest)

    def discard_forgotten(self, age: timedelta) -> list[AdapterRef]:
        """Drops versions that were staged before that long and never published: whoever put them is gone."""
        before = datetime.now(UTC) - age
        with self._writing:
            forgotten = [ref for ref in self._staged if self._catalog.at(ref).created_at < before]
        for ref in forgotten:
            with suppress(WrongState):  # published just now
                self.discard(ref)
        return forgotten

    def expire(self, *, keep_versions: int, keep_days: float, name: AdapterName | None = None) -> list[AdapterRef]:
        """Removes versions that are not the latest of their name. 0 = no limit.

        Args:
            keep_versions: live versions that a name keeps, the latest included.
            keep_days: age at which an older version goes.
            name: whose; None = of all names.
        """
        oldest = datetime.now(UTC) - timedelta(days=keep_days) if keep_days else None
        gone: list[AdapterRef] = []
        with self._writing:
            names = [name] if name is not None else sorted({record.name for record in self._catalog.live()})
            for one in names:
                for record in expired(self._catalog.live_versions(one), keep_versions=keep_versions, oldest=oldest):
                    self._remove(record, "expired", "")
                    gone.append(record.ref)
        return gone

    def history(self, name: AdapterName, accept: Callable[[Version], bool] = lambda _: True) -> list[Version]:
        """The versions of a name that are or were live and that `accept` takes, newest first. Raises NotFound: none."""
        name = AdapterName(name.tenant, name.name)
        versions: list[Version] = [*self._manifests.removals(name), *self._catalog.live_versions(name)]
        found = sorted(filter(accept, versions), key=lambda version: version.ref.version, reverse=True)
        if not found:
            raise missing(name)
        return found

    def usage_with(self, name: AdapterName) -> TenantUsage:
        """What the tenant would hold with this name, too."""
        return self._catalog.usage_with(name)

    @property
    def num_versions(self) -> int:
        """In any state. Callable from any thread."""
        return self._catalog.num_versions

    @property
    def num_findable(self) -> int:
        """Names whose latest live version has samples. Callable from any thread."""
        return self._catalog.num_findable

    def widest_rank(self, base_model: str) -> int:
        """The largest rank that is stored for a base model; 0 = nothing is."""
        return self._catalog.widest_rank(base_model)

    def is_public(self, version: Version) -> bool:
        """Whether other tenants may see it: never what is gone. See `Catalog.is_public`."""
        return isinstance(version, AdapterRecord) and self._catalog.is_public(version)

    def is_latest(self, record: AdapterRecord) -> bool:
        """Whether a live version is the one that its name stands for."""
        return self._catalog.is_latest(record)

    def delete(self, name: AdapterName, *, comment: str = "", expected_version: int | None = None) -> list[AdapterRef]:
        """Removes one live version, or all live versions when none is pinned.

        Raises:
            NotFound: there is none.
            Conflict: expected_version is not the latest live version.
            Unavailable: another server has opened the store since.
        """
        with self._writing:
            records = self._named(name, expected_version)
            for record in records:
                self._remove(record, "deleted", comment)
            return [record.ref for record in records]

    def revoke(self, name: AdapterName, *, comment: str = "", expected_version: int | None = None) -> list[AdapterRef]:
        """As `delete`, with every live version of the tenant that has the same content, whatever its name.

        The content cannot be stored again. A crash on the way is finished at the next start.
        """
        with self._writing:
            digests = {record.ref.digest for record in self._named(name, expected_version)}
            for digest in sorted(digests):
                with self._changing():
                    self._revocations.add(name.tenant, digest, comment)
            doomed = [r for r in self._catalog.live() if r.ref.tenant == name.tenant and r.ref.digest in digests]
            for record in doomed:
                self._remove(record, "revoked", comment)
            return [record.ref for record in doomed]

    def _named(self, name: AdapterName, expected_version: int | None) -> list[AdapterRecord]:
        versions = self._catalog.live_versions(AdapterName(name.tenant, name.name))
        records = [record for record in versions if name.version in (0, record.ref.version)]
        if not records:
            raise missing(name)
        self._catalog.check_expected(name, expected_version)
        return records

    def get(self, name: AdapterName) -> AdapterRecord:
        """The pinned version in any state, or the latest live one, without its samples. Raises NotFound."""
        record = self._catalog.get(name)
        if record is None:
            raise missing(name)
        return record

    def with_samples(self, record: AdapterRecord) -> AdapterRecord:
        """The record with its samples, read from its manifest. Raises NotFound when it is gone, or Corrupt."""
        samples = self._staged.get(record.ref)
        try:
            return replace(record, samples=self._manifests.read(record.ref).samples if samples is None else samples)
        except FileNotFoundError:
            raise missing(AdapterName(record.ref.tenant, record.ref.name, record.ref.version)) from None

    def page(self, after: Position | None, size: int, accept: Accept) -> Sequence[AdapterRecord]:
        """Up to `size` live records that `accept` takes, behind a position, by (tenant, name, version); no samples."""
        return self._catalog.page(after, size, lambda record: record.is_live and accept(record))

    def has_digest(self, digest: str) -> bool:
        """Whether any version has this content."""
        return self._catalog.has_digest(digest)

    def read(self, digest: str) -> Content:
        """Reads and verifies the files of a digest. Raises NotFound or Corrupt."""
        return self._objects.read(digest)

    def folder(self, digest: str) -> Path | None:
        """The local folder with the two files of a digest, not verified; None when the store is remote."""
        return self._objects.folder(digest)

    def sweep(self) -> int:
        """Frees objects that no version names: remains of uploads that a crash ended. Returns how many."""
        # An unreadable manifest may name any object: then none is freed.
        return 0 if self.opened.num_unreadable else self._collector.sweep()

    def save_catalog(self) -> None:
        """Writes the copy of all manifests that makes the next start quick, if there is something new to it."""
        if self._is_catalog_old:
            self._is_catalog_old = False
            self._writer.check()
            self._manifests.save_catalog(self._catalog.live())

    def _remove(self, record: AdapterRecord, reason: str, comment: str) -> None:
        with self._changing():
            self._manifests.remove(Removal(record.ref, record.created_at, datetime.now(UTC), reason, comment))
        self._catalog.remove(record.ref)
        self._collector.free(record.ref.digest)

    def _finish_revocations(self) -> None:
        """Of a crash: the content is revoked, and some of its versions are still live."""
        for record in self._catalog.live():
            content = record.ref.tenant, record.ref.digest
            if content in self._revocations:
                self._remove(record, "revoked", self._revocations.comment(*content))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._is_catalog_old = True
        with self._writer.changing():
            yield
