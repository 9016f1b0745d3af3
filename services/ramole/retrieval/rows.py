"""The rows of one generation: written, removed and listed.

The mean row of a version decides: its sample rows come before it and go after it, and count only beside it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient

from ramole.core.errors import InvalidInput, Unavailable
from ramole.core.names import AdapterName, AdapterRef, check_digest, check_indexable, check_tags
from ramole.retrieval.filters import of_base, versions_of
from ramole.retrieval.generations import IndexGeneration
from ramole.retrieval.values import IndexEntry, Row
from ramole.retrieval.vectors import unit_mean, unit_samples

REF_FIELDS = ["tenant", "name", "version", "digest"]

_ROWS_PER_CALL = 1000
_MAX_FOUND = 16_384
"""Rows of one query at most: Milvus's own limit."""
_SETTLE_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Prepared:
    """Entries that were checked, of different names, with unit vectors ``[m, dim]`` for each."""

    rows: list[Row]
    samples: list[NDArray[np.float32]]
    means: list[NDArray[np.float32]]

    @property
    def dim(self) -> int:
        """Of all vectors."""
        return int(self.means[0].size)

    @classmethod
    def check(cls, entries: Sequence[IndexEntry], encoder_id: str) -> Prepared:
        """Raises InvalidInput: nothing, a name twice, or a bad name, digest, base model, encoder id or vector."""
        if not entries:
            raise InvalidInput("no adapters", field="adapters", remedy="give at least one")
        check_indexable(encoder_id, field="encoder_id")
        samples, means = [], []
        for entry in entries:
            ref = entry.row.ref
            if AdapterName.parse(str(ref), tenant="") != AdapterName(ref.tenant, ref.name, ref.version):
                raise InvalidInput(f"{str(ref)[:160]!r} is no version", field="adapter", remedy="pin a version")
            check_digest(ref.digest, field="adapter.digest")
            check_indexable(entry.row.base_model, field="base_model")
            check_tags(entry.row.tags)
            samples.append(unit_samples(entry.samples, field="samples"))
            means.append(unit_mean(samples[-1], field="samples"))
        if len({_name(entry.row.ref) for entry in entries}) < len(entries):
            raise InvalidInput("the same adapter twice", field="adapters", remedy="give its latest version only")
        if len({mean.size for mean in means}) > 1:
            raise InvalidInput("vectors of different dimensions", field="samples", remedy="use one encoder")
        return cls([entry.row for entry in entries], samples, means)


class Rows:
    """Reads and writes rows. All methods raise MilvusException when Milvus fails; writers exclude each other outside.

    Args:
        client: connected.
        timeout_s: of each call, and of waiting until a write can be seen.
    """

    def __init__(self, client: MilvusClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    def write(self, generation: IndexGeneration, prepared: Prepared) -> None:
        """Puts versions in place of the older ones of their names; returns when they can be seen.

        Raises:
            Unavailable: they could not be seen in time.
        """
        refs = [row.ref for row in prepared.rows]
        # Not `upsert`: Milvus 2.3 puts an upserted row into the partition of another base model (milvus#30772), where
        # no search that names its own looks for it. A crash in between is repaired from the store.
        self._delete_leftovers(generation, refs)
        samples: list[dict[str, Any]] = []
        means: list[dict[str, Any]] = []
        for row, vectors, mean in zip(prepared.rows, prepared.samples, prepared.means, strict=True):
            shared: dict[str, Any] = {
                "base_model": row.base_model,
                "tenant": row.ref.tenant,
                "is_public": row.is_public,
                "name": row.ref.name,
                "version": row.ref.version,
                "digest": row.ref.digest,
                "num_samples": len(vectors),
            }
            if generation.has_tags:
                shared["tags"] = list(row.tags)
            keys = _sample_keys(row.ref, len(vectors))
            samples += [shared | {"pk": pk, "emb": vector} for pk, vector in zip(keys, vectors, strict=True)]
            means.append(shared | {"pk": str(row.ref), "emb": mean})
        for collection, entities in ((generation.samples, samples), (generation.means, means)):
            for start in range(0, len(entities), _ROWS_PER_CALL):
                self._client.insert(collection, entities[start : start + _ROWS_PER_CALL], timeout=self._timeout_s)
        self._settle(generation, refs)

    def remove(self, generation: IndexGeneration, versions: Collection[AdapterName]) -> None:
        """Takes versions out; returns when they can no longer be seen. Raises Unavailable if that takes too long."""
        doomed = set(versions)
        names = {AdapterName(version.tenant, version.name) for version in doomed}
        for seen in self._watch(generation, names):
            gone = {ref: size for ref, size in seen.items() if AdapterName(ref.tenant, ref.name, ref.version) in doomed}
            if not gone:
                return
            self._delete(generation, gone)

    def present(self, generation: IndexGeneration, refs: Iterable[AdapterRef]) -> set[AdapterRef]:
        """Those of `refs` that have a mean row."""
        names = {_name(ref) for ref in refs}
        return set(self._versions(generation, names, "Session")) if names else set()

    def count(self, generation: IndexGeneration, base_model: str | None = None) -> int:
        """How many adapters have a row, of one base model or of all."""
        [found] = self._client.query(
            generation.means,
            filter="" if base_model is None else of_base(base_model),
            output_fields=["count(*)"],
            consistency_level="Session",
            timeout=self._timeout_s,
        )
        return int(found["count(*)"])

    def samples(self, generation: IndexGeneration, ref: AdapterRef) -> NDArray[np.float32]:
        """The sample vectors of one version, ``[m, dim]``, in no order; m = 0 if it is gone."""
        found = self._client.query(
            generation.samples,
            filter=f"{versions_of([_name(ref)])} and version == {ref.version}",
            output_fields=["emb"],
            limit=_MAX_FOUND,
            consistency_level="Session",
            timeout=self._timeout_s,
        )
        return np.array([row["emb"] for row in found], np.float32).reshape(len(found), -1)

    def listed(self, generation: IndexGeneration) -> Generator[list[Row], None, None]:
        """Every row, in batches."""
        batches = self._client.query_iterator(
            generation.means,
            batch_size=_ROWS_PER_CALL,
            output_fields=[*REF_FIELDS, "base_model", "is_public"],
            consistency_level="Strong",
            timeout=self._timeout_s,
        )
        try:
            while batch := batches.next():
                yield [Row(ref_of(entity), entity["base_model"], entity["is_public"]) for entity in batch]
        finally:
            batches.close()

    def _settle(self, generation: IndexGeneration, refs: Sequence[AdapterRef]) -> None:
        """Returns once each of `refs`, or a newer version of its name, is the only row of its name to be seen."""
        for seen in self._watch(generation, [_name(ref) for ref in refs]):
            newest: dict[AdapterName, AdapterRef] = {}
            for ref in sorted(seen, key=lambda ref: ref.version):
                newest[_name(ref)] = ref
            stale = {ref: size for ref, size in seen.items() if ref != newest[_name(ref)]}
            if stale:
                self._delete(generation, stale)
            elif all(ref in seen or ref.version < newest.get(_name(ref), ref).version for ref in refs):
                return

    def _watch(self, generation: IndexGeneration, names: Iterable[AdapterName]) -> Iterator[Mapping[AdapterRef, int]]:
        """Looks again and again at the rows of some names until the caller has seen enough.

        Strong consistency on a server: what was written before is seen, here and by searches from now on.

        Raises:
            Unavailable: the caller still was not content after `timeout_s`.
        """
        names = list(names)
        deadline = time.monotonic() + self._timeout_s
        while True:
            yield self._versions(generation, names, "Strong")
            if time.monotonic() > deadline:
                raise Unavailable(f"the index did not show the change of {names[0]} in time", remedy="try again")
            time.sleep(_SETTLE_POLL_S)

    def _versions(
        self, generation: IndexGeneration, names: Iterable[AdapterName], consistency: str
    ) -> dict[AdapterRef, int]:
        """Version -> number of its samples."""
        found = self._client.query(
            generation.means,
            filter=versions_of(names),
            output_fields=[*REF_FIELDS, "num_samples"],
            consistency_level=consistency,
            timeout=self._timeout_s,
        )
        return {ref_of(row): row["num_samples"] for row in found}

    def _delete_leftovers(self, generation: IndexGeneration, refs: Sequence[AdapterRef]) -> None:
        """Takes out what there is of some versions, also where a crash has left half of it.

        Deletes only what is there: each deletion, of nothing as well, makes the searches of a server slower.
        """
        versions = {(ref.tenant, ref.name, ref.version) for ref in refs}
        numbers = ", ".join(str(number) for number in sorted({ref.version for ref in refs}))
        leftovers = f"({versions_of(map(_name, refs))}) and version in [{numbers}]"
        for collection in (generation.means, generation.samples):
            while True:
                found = self._client.query(
                    collection,
                    filter=leftovers,
                    output_fields=["pk", "tenant", "name", "version"],
                    limit=_MAX_FOUND,
                    consistency_level="Strong",
                    timeout=self._timeout_s,
                )
                keys = [row["pk"] for row in found if (row["tenant"], row["name"], row["version"]) in versions]
                if keys:
                    self._client.delete(collection, ids=keys, timeout=self._timeout_s)
                if len(found) < _MAX_FOUND or not keys:
                    break

    def _delete(self, generation: IndexGeneration, versions: Mapping[AdapterRef, int]) -> None:
        keys = [str(ref) for ref in versions]
        self._client.delete(generation.means, ids=keys, timeout=self._timeout_s)
        keys = [key for ref, size in versions.items() for key in _sample_keys(ref, size)]
        self._client.delete(generation.samples, ids=keys, timeout=self._timeout_s)


def ref_of(entity: Mapping[str, Any]) -> AdapterRef:
    """Whose row it is."""
    return AdapterRef(entity["tenant"], entity["name"], entity["version"], entity["digest"])


def _name(ref: AdapterRef) -> AdapterName:
    return AdapterName(ref.tenant, ref.name)


def _sample_keys(ref: AdapterRef, size: int) -> list[str]:
    return [f"{ref}#{i}" for i in range(size)]
