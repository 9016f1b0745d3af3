"""The manifests in memory, indexed for every question that the store is asked. Knows no disk; safe in any thread."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import RLock

from ramole.adapters.store.records import AdapterRecord
from ramole.core.errors import AlreadyExists, Conflict, NotFound
from ramole.core.names import AdapterName, AdapterRef

Position = tuple[str, str, int]
"""(tenant, name, version): the order of listings."""

Accept = Callable[[AdapterRecord], bool]
"""Which records a listing wants."""


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What a tenant holds: names, and bytes of different content."""

    num_adapters: int
    num_bytes: int


class Catalog:
    """All records, by name and version.

    Args:
        records: what is there already.
        last_versions: the highest number that each name ever had; removed versions count.
    """

    def __init__(
        self, records: Iterable[AdapterRecord] = (), last_versions: dict[AdapterName, int] | None = None
    ) -> None:
        self._lock = RLock()  # a listing asks on the way
        self._versions: dict[AdapterName, dict[int, AdapterRecord]] = {}
        self._last_version: dict[AdapterName, int] = dict(last_versions or {})
        self._order: list[Position] = []
        self._by_key: dict[tuple[str, str], AdapterRef] = {}
        self._users: defaultdict[str, set[AdapterRef]] = defaultdict(set)
        self._findable: set[AdapterName] = set()
        self._names: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        # Adapters of one kind wrap the same modules: one tuple for all of them.
        self._modules: dict[tuple[str, ...], tuple[str, ...]] = {}
        for record in sorted(records, key=lambda record: _position(record.ref)):
            self.put(record)

    @property
    def num_versions(self) -> int:
        """In any state."""
        return len(self._order)

    @property
    def num_findable(self) -> int:
        """Names whose latest live version has samples."""
        return len(self._findable)

    def widest_rank(self, base_model: str) -> int:
        """The largest rank of the versions for a base model, in any state; 0 = there is none."""
        with self._lock:
            records = (record for versions in self._versions.values() for record in versions.values())
            return max((record.report.rank for record in records if record.base_model == base_model), default=0)

    def put(self, record: AdapterRecord) -> None:
        """Adds a version, or replaces it by its newer state."""
        ref = record.ref
        with self._lock:
            modules = self._modules.setdefault(record.report.modules, record.report.modules)
            record = replace(record, report=replace(record.report, modules=modules))
            versions = self._versions.setdefault(record.name, {})
            if ref.version not in versions:
                insort(self._order, _position(ref))
                self._names[ref.tenant] += not versions
                self._bytes[ref.tenant] += 0 if self._is_held(ref.tenant, ref.digest) else record.num_bytes
            versions[ref.version] = record
            self._users[ref.digest].add(ref)
            if record.idempotency_key:
                self._by_key[ref.tenant, record.idempotency_key] = ref
            self._judge(record.name)

    def remove(self, ref: AdapterRef) -> None:
        """Forgets a version, but not its number."""
        with self._lock:
            name = AdapterName(ref.tenant, ref.name)
            versions = self._versions[name]
            record = versions.pop(ref.version)
            del self._order[bisect_left(self._order, _position(ref))]
            self._last_version[name] = max(ref.version, self._last_version.get(name, 0))
            if record.idempotency_key:
                del self._by_key[ref.tenant, record.idempotency_key]
            self._users[ref.digest].discard(ref)
            if not self._users[ref.digest]:
                del self._users[ref.digest]
            if not versions:
                del self._versions[name]
                self._names[ref.tenant] -= 1
            self._bytes[ref.tenant] -= 0 if self._is_held(ref.tenant, ref.digest) else record.num_bytes
            self._judge(name)

    def get(self, name: AdapterName) -> AdapterRecord | None:
        """The pinned version in any state, or the latest live one."""
        with self._lock:
            versions = self._versions.get(AdapterName(name.tenant, name.name), {})
            if name.version:
                return versions.get(name.version)
            return max(
                (record for record in versions.values() if record.is_live),
                key=lambda record: record.ref.version,
                default=None,
            )

    def at(self, ref: AdapterRef) -> AdapterRecord:
        """The version with this digest, in any state. Raises NotFound."""
        record = self.get(AdapterName(ref.tenant, ref.name, ref.version))
        if record is None or record.ref != ref:
            raise NotFound(f"there is no {ref} with digest {ref.digest}", field="adapter")
        return record

    def check_expected(self, name: AdapterName, expected: int | None) -> None:
        """Compare-and-swap: raises Conflict unless the latest live version is the expected one (0: none, None: any)."""
        latest = self.get(AdapterName(name.tenant, name.name))
        version = 0 if latest is None else latest.ref.version
        if expected not in (None, version):
            raise Conflict(
                f"{name.tenant}/{name.name} is at version {version}, not {expected}",
                field="expected_version",
                remedy="read the adapter again and retry",
            )

    def known(self, draft: AdapterRecord) -> AdapterRecord | None:
        """The version that answers an upload which asks for nothing new.

        Raises:
            AlreadyExists: the idempotency key belongs to another upload.
            Conflict: see `check_expected`.
        """
        keyed = self.by_idempotency_key(draft.ref.tenant, draft.idempotency_key)
        if keyed is not None:
            if not keyed.is_same_upload(draft):
                raise AlreadyExists(
                    f"idempotency key {draft.idempotency_key!r} was used for {keyed.ref}",
                    field="idempotency_key",
                    remedy="use a fresh key for every new upload",
                )
            return keyed
        self.check_expected(draft.name, draft.expected_version)
        latest = self.get(draft.name)
        return latest if latest is not None and latest.is_same_upload(draft) else None

    def live_versions(self, name: AdapterName) -> list[AdapterRecord]:
        """All live versions of a name, oldest first."""
        with self._lock:
            versions = self._versions.get(name, {})
            return [versions[number] for number in sorted(versions) if versions[number].is_live]

    def is_latest(self, record: AdapterRecord) -> bool:
        """Whether a live version is the one that its name stands for."""
        with self._lock:
            versions = self._versions[record.name]
            return record.is_live and not any(
                other.is_live and number > record.ref.version for number, other in versions.items()
            )

    def is_public(self, record: AdapterRecord) -> bool:
        """Whether other tenants may see a version: it and the latest of its name say so.

        The latest, because a name that is uploaded privately again is meant to be private, and because it is the one
        that the index holds: no two ways to an adapter disagree.
        """
        latest = self.get(record.name)
        return record.is_live and record.is_public and latest is not None and latest.is_public

    def live(self) -> list[AdapterRecord]:
        """All live versions, ordered."""
        return list(self.page(None, len(self._order) + 1, lambda record: record.is_live))

    def next_version(self, name: AdapterName) -> int:
        """The number that the next version of a name gets: one above all that were ever given."""
        with self._lock:
            return 1 + max((self._last_version.get(name, 0), *self._versions.get(name, {})))

    def by_idempotency_key(self, tenant: str, key: str) -> AdapterRecord | None:
        """The version that an upload with this key made."""
        with self._lock:
            ref = self._by_key.get((tenant, key))
            return None if ref is None else self._versions[AdapterName(ref.tenant, ref.name)][ref.version]

    def has_digest(self, digest: str) -> bool:
        """Whether any version has this content."""
        with self._lock:
            return digest in self._users

    def usage_with(self, name: AdapterName, digest: str = "", num_bytes: int = 0) -> TenantUsage:
        """What a tenant would hold with this name and content too. Staged versions count."""
        with self._lock:
            tenant = name.tenant
            num_bytes = 0 if self._is_held(tenant, digest) else num_bytes
            return TenantUsage(self._names[tenant] + (name not in self._versions), self._bytes[tenant] + num_bytes)

    def page(
        self, after: Position | None, size: int, accept: Callable[[AdapterRecord], bool]
    ) -> Sequence[AdapterRecord]:
        """Up to `size` accepted records behind a position, in order of (tenant, name, version)."""
        found: list[AdapterRecord] = []
        with self._lock:
            start = bisect_right(self._order, after) if after is not None else 0
            for index in range(start, len(self._order)):
                tenant, name, version = self._order[index]
                record = self._versions[AdapterName(tenant, name)][version]
                if accept(record):
                    found.append(record)
                    if len(found) == size:
                        break
        return found

    def _judge(self, name: AdapterName) -> None:
        latest = self.get(name)
        change = self._findable.add if latest is not None and latest.num_samples else self._findable.discard
        change(name)

    def _is_held(self, tenant: str, digest: str) -> bool:
        """Whether the tenant has this content already, or still."""
        return any(user.tenant == tenant for user in self._users.get(digest, ()))


def _position(ref: AdapterRef) -> Position:
    return ref.tenant, ref.name, ref.version


def expired(versions: Sequence[AdapterRecord], *, keep_versions: int, oldest: datetime | None) -> list[AdapterRecord]:
    """Versions that are too many or too old; never the latest.

    Args:
        versions: the live ones of one name, oldest first.
        keep_versions: how many stay, the latest included; 0 = all.
        oldest: what was made before goes; None = nothing.
    """
    older = versions[:-1]
    surplus = max(0, len(versions) - keep_versions) if keep_versions else 0
    return [
        record
        for index, record in enumerate(older)
        if index < surplus or (oldest is not None and record.created_at < oldest)
    ]
