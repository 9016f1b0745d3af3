"""One JSON file per version, ``manifests/<tenant>/<name>/<version>.json``: a version is live exactly while it exists.

When a version goes, ``<version>.gone`` is written first and stays: it is the moment of the removal, keeps the number
from ever standing for other content, and is what the history tells. Manifests never change, so ``catalog.json``, a copy
of all of them without their samples, only ever has to be completed: a start lists the folder and reads what is missing.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ramole.adapters.store.files import Files
from ramole.adapters.store.records import (
    DAMAGED,
    FORMAT,
    AdapterRecord,
    Removal,
    record_from_raw,
    record_to_raw,
    removal_from_raw,
    removal_to_raw,
)
from ramole.core.errors import Corrupt, told
from ramole.core.names import AdapterName, AdapterRef

MAX_HISTORY = 100
"""Versions of a name that are remembered after they are gone; older ones are dropped at a start."""

_FOLDER = "manifests"
_CATALOG = "catalog.json"
_LIVE, _GONE = ".json", ".gone"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store holds.

    Attributes:
        records: live versions, without samples.
        last_versions: the highest number that each name has ever published.
        num_read: manifests that ``catalog.json`` did not hold.
        num_finished: removals that had begun and are finished now.
        num_unreadable: manifests that could not be read. They are left where they are.
    """

    records: Sequence[AdapterRecord]
    last_versions: dict[AdapterName, int]
    num_read: int
    num_finished: int
    num_unreadable: int


class Manifests:
    """The manifests of a store."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def create(self, record: AdapterRecord) -> None:
        """Makes a version live. Raises FileExistsError when its number is taken."""
        self._files.create(_key(record.ref, _LIVE), _to_json(record_to_raw(record)))

    def remove(self, removal: Removal) -> None:
        """Ends a version."""
        self._files.write(_key(removal.ref, _GONE), _to_json(removal_to_raw(removal)))
        self._files.remove(_key(removal.ref, _LIVE))

    def withdraw(self, record: AdapterRecord) -> None:
        """Undoes a `create` whose outcome is not known. What another server has made of the number stays."""
        with suppress(FileNotFoundError, Corrupt):
            if self.read(record.ref) == record:
                self._files.remove(_key(record.ref, _LIVE))

    def read(self, ref: AdapterRef) -> AdapterRecord:
        """A live version with its samples. Raises FileNotFoundError, or Corrupt."""
        data = self._files.read(_key(ref, _LIVE))
        try:
            return record_from_raw(json.loads(data))
        except DAMAGED as error:
            raise Corrupt(
                f"the manifest of {ref} is damaged", field="adapter", remedy="restore the store from a backup"
            ) from error

    def removals(self, name: AdapterName) -> list[Removal]:
        """Versions of a name that are gone, oldest first. Damaged ones are left out."""
        keys = [key for key in self._files.keys(f"{_FOLDER}/{name.tenant}/{name.name}") if key.endswith(_GONE)]
        found = []
        for key, data in self._files.read_many(keys):
            try:
                found.append(removal_from_raw(json.loads(data)))
            except DAMAGED as error:
                _log.error("%s is unreadable: %s", key, told(error))
        return sorted(found, key=lambda removal: removal.ref.version)

    def load(self, *, finishes: bool = True) -> Loaded:
        """Reads everything. A file that is no manifest is reported in the log and counted, never removed.

        Args:
            finishes: whether removals that a crash has interrupted are; False = nothing is changed.
        """
        live: set[str] = set()
        gone: set[str] = set()
        last_versions: dict[AdapterName, int] = {}
        num_unreadable = 0
        for key in self._files.keys(_FOLDER):
            place = _place(key)
            if place is None:
                num_unreadable += 1
                _log.error("%s is no manifest", key)
                continue
            name, version, suffix = place
            last_versions[name] = max(version, last_versions.get(name, 0))
            (live if suffix == _LIVE else gone).add(key.removesuffix(suffix))
        if finishes:
            for stem in live & gone:
                self._files.remove(stem + _LIVE)
            for stem in _surplus(gone):
                self._files.remove(stem + _GONE)
        wanted = {stem + _LIVE for stem in live - gone}
        known = self._catalog(wanted)
        records = list(known.values())
        missing = sorted(wanted - known.keys())
        for key, data in self._files.read_many(missing):
            try:
                records.append(_from_manifest(key, data))
            except DAMAGED as error:
                num_unreadable += 1
                _log.error("manifest %s is unreadable, its adapter is not served: %s", key, told(error))
        return Loaded(records, last_versions, len(missing), len(live & gone), num_unreadable)

    def save_catalog(self, records: Sequence[AdapterRecord]) -> None:
        """Writes the copy that makes the next start quick."""
        # Adapters of one kind wrap the same modules: their names are most of a manifest, and here written once.
        tables: dict[tuple[str, ...], int] = {}
        raw = []
        for record in records:
            item = record_to_raw(replace(record, samples=()))
            item["report"]["modules"] = tables.setdefault(record.report.modules, len(tables))
            raw.append(item)
        self._files.write(_CATALOG, _to_json({"format": FORMAT, "modules": list(tables), "records": raw}))

    def _catalog(self, wanted: set[str]) -> dict[str, AdapterRecord]:
        """What of `wanted` the copy holds. It may be missing, old or damaged: it never decides what exists."""
        try:
            raw = json.loads(self._files.read(_CATALOG))
            if raw["format"] != FORMAT:
                return {}
            records = []
            for item in raw["records"]:
                item["report"]["modules"] = raw["modules"][item["report"]["modules"]]
                records.append(record_from_raw(item))
        except FileNotFoundError:
            return {}
        except DAMAGED as error:
            _log.warning("%s is unreadable and will be written anew: %s", _CATALOG, told(error))
            return {}
        by_key = ((_key(record.ref, _LIVE), record) for record in records)
        return {key: record for key, record in by_key if key in wanted}


def _key(ref: AdapterRef, suffix: str) -> str:
    return f"{_FOLDER}/{ref.tenant}/{ref.name}/{ref.version}{suffix}"


def _surplus(gone: set[str]) -> list[str]:
    """All but the newest versions of each name that are gone; the highest number of a name is never among them."""
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for stem in gone:
        name, _, version = stem.rpartition("/")
        by_name[name].append(int(version))
    return [f"{name}/{version}" for name, all_ in by_name.items() for version in sorted(all_)[:-MAX_HISTORY]]


def _place(key: str) -> tuple[AdapterName, int, str] | None:
    parts = key.split("/")
    if len(parts) != 4:
        return None
    stem, dot, ending = parts[3].rpartition(".")
    suffix = dot + ending
    if suffix not in (_LIVE, _GONE) or not (stem.isascii() and stem.isdigit()):
        return None
    return AdapterName(parts[1], parts[2]), int(stem), suffix


def _from_manifest(key: str, data: bytes) -> AdapterRecord:
    record = record_from_raw(json.loads(data))
    if _key(record.ref, _LIVE) != key or not record.is_live:
        raise ValueError(f"the manifest is that of {record.ref}, {record.state}")
    return replace(record, samples=())


def _to_json(raw: dict[str, Any]) -> bytes:
    return json.dumps(raw, ensure_ascii=False).encode()
