"""What happened, and what must never have happened. Pure: records in, complaints out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

OK = "OK"
LATE_S = 1.0
"""How long after its deadline a call may still take to say so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for an answer, with all its tries.

    Attributes:
        tenant: who asked.
        start_s, end_s: on the clock of the history.
        deadline_s: that it was given, from `start_s`.
        code: `OK`, or the reason of the error: ``UNAVAILABLE``.
        wanted: the text that the same request brings alone; '' = not known.
        text: that came.
        used: names of the versions that the answer used: ``tenant/name@3``.
    """

    tenant: str
    start_s: float
    end_s: float
    deadline_s: float
    code: str
    wanted: str = ""
    text: str = ""
    used: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """One change of the repository.

    Attributes:
        action: ``upload`` or ``revoke``.
        adapter: ``tenant/name`` or ``tenant/name@3``.
        code: as in `Asked`.
    """

    action: str
    adapter: str
    start_s: float
    end_s: float
    code: str


@dataclass(slots=True)
class History:
    """Everything that was asked and changed, in any order; and what is there afterwards.

    Attributes:
        codes: that the documentation knows.
        public: versions that every tenant may use.
        found: adapters that can be found and used at the end.
        broken: adapters that are listed at the end and cannot be used.
    """

    codes: frozenset[str]
    asked: list[Asked] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    public: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    def complaints(self) -> Iterator[str]:
        """Every invariant that does not hold. No complaint is the promise of the system."""
        for one in self.asked:
            if one.end_s > one.start_s + one.deadline_s + LATE_S:
                yield f"an answer came {one.end_s - one.start_s - one.deadline_s:.1f} s after its deadline"
            if one.code != OK and one.code not in self.codes:
                yield f"an answer ended with {one.code}, which no documentation knows"
            if one.code == OK and one.wanted and one.text != one.wanted:
                yield f"{one.tenant} was answered {one.text!r}, alone it is {one.wanted!r}"
            yield from self._uses(one)
        for change in self.changed:
            if change.code != OK and change.code not in self.codes:
                yield f"{change.action} ended with {change.code}, which no documentation knows"
        yield from (f"{name} was acknowledged and is lost" for name in sorted(self.lost))
        yield from (f"{name} was published in part" for name in sorted(self.broken))

    @property
    def lost(self) -> set[str]:
        """Adapters whose upload was acknowledged and that are not there."""
        acknowledged = {each.adapter for each in self.changed if each.action == "upload" and each.code == OK}
        revoked = {each.adapter.partition("@")[0] for each in self.changed if each.action == "revoke"}
        return acknowledged - revoked - self.found

    def failed(self, since_s: float = 0.0) -> list[Asked]:
        """Requests that ended with an error after `since_s`, but for those whose adapter was revoked meanwhile."""
        return [one for one in self.asked if one.code != OK and one.end_s >= since_s and not self._was_revoked(one)]

    def _was_revoked(self, one: Asked) -> bool:
        return one.code == "CANCELLED" and any(
            each.action == "revoke" and each.start_s <= one.end_s and one.start_s <= each.end_s for each in self.changed
        )

    def recovery_s(self, since_s: float) -> float:
        """From a fault until the last request failed; 0 = none has."""
        return max((one.end_s - since_s for one in self.failed(since_s)), default=0.0)

    def by_code(self) -> dict[str, int]:
        """How often each code came."""
        return dict(Counter(one.code for one in self.asked))

    def _uses(self, one: Asked) -> Iterator[str]:
        versions = defaultdict(set)
        for used in one.used:
            name, _, version = used.partition("@")
            versions[name].add(version)
            if not (used in self.public or name.startswith(f"{one.tenant}/")):
                yield f"{one.tenant} was answered with {used}"
        yield from (f"an answer mixes versions of {name}" for name, found in versions.items() if len(found) > 1)
        for change in self.changed:
            if change.action == "revoke" and change.code == OK and change.end_s < one.start_s:
                for used in one.used:
                    if used == change.adapter or used.partition("@")[0] == change.adapter:
                        yield f"{used} was revoked and answered {one.start_s - change.end_s:.1f} s later"
