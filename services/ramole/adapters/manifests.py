"""One JSON file per version: ``manifests/<tenant>/<name>/<version>.json``, and ``last`` beside them.

A version exists exactly while its manifest does. ``last`` is written before a manifest is removed and holds the highest
version given so far, so that a number never comes to stand for other content.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ramole.adapters.files import make_folder, remove_file, replace_file
from ramole.adapters.records import AdapterRecord, record_from_json, record_to_json
from ramole.core.names import AdapterName, AdapterRef

_LAST = "last"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was on disk.

    Attributes:
        last_versions: the content of the ``last`` files.
        num_unreadable: manifests that could not be read. They are left where they are.
    """

    records: Sequence[AdapterRecord]
    last_versions: dict[AdapterName, int]
    num_unreadable: int


class ManifestFolder:
    """The manifests below `root`. `scratch` is a folder on the same file system."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch

    def write(self, record: AdapterRecord) -> None:
        """Creates or replaces the manifest of a version, atomically and durably."""
        path = self._path(record.ref)
        make_folder(path.parent)
        replace_file(path, record_to_json(record), self._scratch)

    def remove(self, ref: AdapterRef, last_version: int) -> None:
        """Removes a manifest. `last_version` of its name is remembered first: no crash can free the number."""
        path = self._path(ref)
        replace_file(path.parent / _LAST, str(last_version).encode(), self._scratch)
        remove_file(path)

    def load(self) -> Loaded:
        """Reads everything. A file that is no manifest is reported in the log and counted, never removed."""
        records: list[AdapterRecord] = []
        last_versions: dict[AdapterName, int] = {}
        num_unreadable = 0
        for path in self._files():
            try:
                if path.name == _LAST:
                    last_versions[AdapterName(path.parent.parent.name, path.parent.name)] = int(path.read_bytes())
                else:
                    records.append(self._read(path))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                num_unreadable += 1
                _log.error("manifest %s is unreadable, its adapter is not served: %r", path, error)
        return Loaded(records, last_versions, num_unreadable)

    def _read(self, path: Path) -> AdapterRecord:
        record = record_from_json(path.read_bytes())
        if self._path(record.ref) != path:
            raise ValueError(f"the manifest is that of {record.ref}")
        return record

    def _files(self) -> Iterator[Path]:
        return self._root.glob("*/*/*")

    def _path(self, ref: AdapterRef) -> Path:
        return self._root / ref.tenant / ref.name / f"{ref.version}.json"
