"""How adapters are called: ``tenant/name@version``, always pointing to one immutable digest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ramole.core.bounds import check_count
from ramole.core.errors import InvalidInput

MAX_NAME_CHARS = 64
MAX_TAG_CHARS = 64

_MAX_VERSION_DIGITS = 9
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_INDEXABLE = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TAG = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_TAG_CHARS - 1}}}")


@dataclass(frozen=True, slots=True, order=True)
class AdapterName:
    """``tenant/name``, or ``tenant/name@version`` when a version is pinned (0 = the latest)."""

    tenant: str
    name: str
    version: int = 0

    def __str__(self) -> str:
        suffix = f"@{self.version}" if self.version else ""
        return f"{self.tenant}/{self.name}{suffix}"

    @classmethod
    def parse(cls, text: str, *, tenant: str, field: str = "adapter") -> AdapterName:
        """Reads ``name``, ``tenant/name`` or ``tenant/name@version``.

        Args:
            tenant: whose adapter a name without a tenant means; empty = a name needs one.

        Raises:
            InvalidInput: the text is none of these.
        """
        path, at, version = text.partition("@")
        owner, slash, name = path.rpartition("/")
        owner = owner if slash else tenant
        broken = _broken_rule("tenant", owner) or _broken_rule("name", name) or (_broken_version(version) if at else "")
        if broken:
            raise InvalidInput(
                f"{text[:160]!r} is not an adapter name: {broken}",
                field=field,
                remedy="use name, tenant/name or tenant/name@version, of letters, digits, '.', '_' and '-', at most "
                f"{MAX_NAME_CHARS} each",
            )
        return cls(owner, name, int(version) if at else 0)


@dataclass(frozen=True, slots=True, order=True)
class AdapterRef:
    """One stored version of an adapter. `digest` is the sha256 of its canonical content, in hex."""

    tenant: str
    name: str
    version: int
    digest: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}@{self.version}"


def _broken_rule(part: str, value: str) -> str:
    """What is wrong with a tenant or name; empty if nothing is."""
    if not value:
        return f"the {part} is empty"
    if len(value) > MAX_NAME_CHARS:
        return f"the {part} has {len(value)} characters, not at most {MAX_NAME_CHARS}"
    if _PART.fullmatch(value):
        return ""
    if "/" in value:
        return f"{value[:80]!r} holds a second '/'"
    allowed = re.compile(r"[A-Za-z0-9._-]")
    odd = next((char for char in value if not allowed.match(char)), None)
    if odd is not None:
        return f"the {part} holds {odd!r}"
    return f"the {part} begins with {value[0]!r}, not with a letter or digit"


def _broken_version(version: str) -> str:
    """What is wrong with a version; empty if nothing is."""
    if not (version.isascii() and version.isdigit()):
        return f"the version {version[:20]!r} is no number"
    if len(version) > _MAX_VERSION_DIGITS:
        return f"the version has {len(version)} digits, not at most {_MAX_VERSION_DIGITS}"
    return "" if int(version) > 0 else "versions begin with 1"


def check_digest(text: str, *, field: str = "digest") -> str:
    """Returns `text` if it is a sha256 in lower-case hex. Raises InvalidInput otherwise."""
    if not _DIGEST.fullmatch(text):
        raise InvalidInput(f"{text[:80]!r} is not a sha256", field=field, remedy="give 64 hex digits")
    return text


def check_tenant(text: str, *, field: str = "tenant") -> str:
    """Returns `text` if it can be the tenant in an adapter's name. Raises InvalidInput otherwise."""
    if not _PART.fullmatch(text):
        raise InvalidInput(
            f"{text[:80]!r} is not a tenant", field=field, remedy="use 1 to 64 letters, digits, '.', '_' and '-'"
        )
    return text


def check_tags(tags: Sequence[str], *, field: str = "tags") -> tuple[str, ...]:
    """Returns `tags`, each once and sorted. Raises InvalidInput for one that is none, and for too many."""
    for index, tag in enumerate(tags):
        if not _TAG.fullmatch(tag):
            raise InvalidInput(
                f"{tag[:80]!r} is not a tag",
                field=f"{field}[{index}]",
                remedy=f"use 1 to {MAX_TAG_CHARS} of a-z 0-9 . _ -, beginning with a letter or digit",
            )
    found = tuple(sorted(set(tags)))
    check_count("tags", len(found), at=field)
    return found


def check_indexable(text: str, *, field: str) -> str:
    """Returns `text` if the index can hold and find it: nothing in it can end a literal of a filter.

    Raises:
        InvalidInput: it is empty, longer than 128 characters or has a character outside the alphabet.
    """
    if not _INDEXABLE.fullmatch(text):
        raise InvalidInput(
            f"{text[:80]!r} cannot be indexed",
            field=field,
            remedy="use 1 to 128 letters, digits, '.', '_', ':', '/', '@' and '-'",
        )
    return text


def derive_base_id(base_model: str) -> str:
    """The name of a base model that has none of its own: the setting itself, or else its last part, made indexable.

    Empty if nothing of it can be in a name.
    """
    if _INDEXABLE.fullmatch(base_model):
        return base_model
    return re.sub(r"[^A-Za-z0-9._:@-]+", "-", base_model.rstrip("/").rpartition("/")[2]).strip("-.")[:128]
