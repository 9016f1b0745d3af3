"""Every number and text that a client may send, with its range. Validation, proto comments and docs/bounds.md use it.

A number that is finite but useless (a temperature of 1e-40) does as much harm as one that is not: it overflows on its
way through the formulas. So each has a smallest magnitude beside its ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ramole.core.errors import InvalidInput

MAX_EXPERTS = 8
DEFAULT_PARTS = 4
MAX_NEW_TOKENS = 4096
MAX_TAGS = 16
DEFAULT_PAGE_SIZE = 100

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Number:
    """A range, both ends included.

    Attributes:
        tiniest: smallest magnitude beside 0.
        zero: what 0 says, where it lies outside of the range or means something of its own; '' = nothing special.
        is_whole: an integer.
    """

    low: float
    high: float
    tiniest: float = 0.0
    zero: str = ""
    is_whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is finite, in the range, and not too near to 0.

        An end that is no binary fraction arrives rounded to a float32: it counts as the end.
        """
        slack = 0 if self.is_whole else _ROUNDING
        # Whole numbers of any size can be compared, but not asked whether they are finite.
        if not self.low - slack * abs(self.low) <= value <= self.high + slack * self.high:
            return False
        return value == 0 or abs(value) >= self.tiniest * (1 - slack)

    @property
    def phrase(self) -> str:
        """The range in words: ``0 (greedy), or 0.001 to 100``."""
        zero = f"0 ({self.zero})" if self.zero else "0"
        if self.low < 0:
            return f"{zero}, or {_shown(self.tiniest)} to {_shown(self.high)} in magnitude"
        if self.low > 0 or self.tiniest:
            ends = f"{_shown(self.low or self.tiniest)} to {_shown(self.high)}"
            return f"{zero}, or {ends}" if self.zero or self.tiniest else ends
        return f"{zero} to {_shown(self.high)}"


@dataclass(frozen=True, slots=True)
class Text:
    """A length in characters, both ends included. With `max_count` or `max_total` a list of such texts."""

    low: int
    high: int
    max_count: int | None = None
    max_total: int | None = None

    @property
    def phrase(self) -> str:
        """The lengths in words."""
        length = f"{self.low} to {self.high} characters" if self.low else f"at most {self.high} characters"
        if self.max_count is not None:
            return f"at most {self.max_count}, of {length} each"
        return length if self.max_total is None else f"{length} each, at most {self.max_total} in all"


@dataclass(frozen=True, slots=True)
class Count:
    """How many entries a list may have."""

    high: int

    @property
    def phrase(self) -> str:
        """The count in words."""
        return f"at most {self.high}"


_FACTOR = Number(-100, 100, tiniest=1e-6)

NUMBERS: dict[str, Number] = {
    "composition.k": Number(0, MAX_EXPERTS, zero="the bare base model", is_whole=True),
    "composition.tau": Number(1e-4, 100),
    "composition.spread": Number(0, 1),
    "composition.scale": _FACTOR,
    "composition.max_parts": Number(2, 8, zero=str(DEFAULT_PARTS), is_whole=True),
    "adapters.weight": _FACTOR,
    "adapters.scale": _FACTOR,
    "sampling.max_tokens": Number(1, MAX_NEW_TOKENS, zero="what fits", is_whole=True),
    "sampling.temperature": Number(0, 100, tiniest=1e-3, zero="greedy"),
    "sampling.top_k": Number(0, 1_000_000, zero="all", is_whole=True),
    "sampling.top_p": Number(1e-4, 1, zero="all"),
    "sampling.min_p": Number(0, 0.999, tiniest=1e-6, zero="all"),
    "sampling.repetition_penalty": Number(0.01, 100, zero="off"),
    "sampling.seed": Number(0, 2**64 - 1, is_whole=True),
    "sampling.stop_token_ids": Number(0, 2**32 - 1, is_whole=True),
    "sampling.top_logprobs": Number(0, 20, is_whole=True),
    "prompt_token_ids": Number(0, 2**32 - 1, is_whole=True),
    "page_size": Number(1, 1000, zero=str(DEFAULT_PAGE_SIZE), is_whole=True),
}
"""By the path of the field in a request."""

TEXTS: dict[str, Text] = {
    "composition.separators": Text(1, 64, max_count=8),
    "sampling.stop": Text(1, 64, max_count=8),
    "header.samples": Text(1, 16_384, max_total=131_072),
    "header.idempotency_key": Text(0, 128),
    "header.base_model": Text(0, 256),
    "header.source": Text(0, 1024),
    "comment": Text(0, 256),
}

COUNTS: dict[str, Count] = {
    "adapters": Count(MAX_EXPERTS),
    "sampling.stop_token_ids": Count(64),
    "messages": Count(256),
    "requests": Count(64),
    "tags": Count(MAX_TAGS),
}


def check_number(field: str, value: float, *, at: str = "") -> None:
    """Raises InvalidInput for a value outside the range of `field`; `at` is the path to name instead."""
    bound = NUMBERS[field]
    if not bound.holds(value):
        name = field.rpartition(".")[2]
        raise InvalidInput(f"{name} = {str(value)[:40]}", field=at or field, remedy=f"use {bound.phrase}")


def check_text(field: str, value: str) -> None:
    """Raises InvalidInput for a text of a wrong length."""
    bound = TEXTS[field]
    if not bound.low <= len(value) <= bound.high:
        shown = f"{value[:40]!r}... is too long: " if value else ""
        raise InvalidInput(f"{shown}{len(value)} characters", field=field, remedy=f"use {bound.phrase}")


def check_texts(field: str, values: Sequence[str]) -> None:
    """Raises InvalidInput for too many texts, one of a wrong length, or too much of them in all."""
    bound = TEXTS[field]
    remedy, one = f"give {bound.phrase}", field.rpartition(".")[2].removesuffix("s")
    if bound.max_count is not None and len(values) > bound.max_count:
        raise InvalidInput(f"{len(values)} given", field=field, remedy=remedy)
    for number, value in enumerate(values, start=1):
        if len(value) < bound.low:
            raise InvalidInput(f"{one} {number} is empty", field=field, remedy=remedy)
        if len(value) > bound.high:
            raise InvalidInput(f"{one} {number} is too long: {len(value)} characters", field=field, remedy=remedy)
    total = sum(map(len, values))
    if bound.max_total is not None and total > bound.max_total:
        raise InvalidInput(f"they are too long: {total} characters in all", field=field, remedy=remedy)


def check_count(field: str, count: int, *, at: str = "") -> None:
    """Raises InvalidInput for a list that is too long; `at` is the path to name instead."""
    if count > COUNTS[field].high:
        raise InvalidInput(f"{count} given", field=at or field, remedy=f"give {COUNTS[field].phrase}")


def _shown(value: float) -> str:
    if value == 2**64 - 1:
        return "2^64 - 1"
    if value == 2**32 - 1:
        return "2^32 - 1"
    return f"{value:.9f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.0f}"


def page() -> str:
    """The table as Markdown: docs/bounds.md."""
    tables: tuple[Mapping[str, Number | Text | Count], ...] = (NUMBERS, TEXTS, COUNTS)
    rows = sorted((path, bound.phrase) for table in tables for path, bound in table.items())
    lines = [f"| `{path}` | {phrase} |" for path, phrase in rows]
    return "\n".join([_PAGE_HEAD, *lines, ""])


_PAGE_HEAD = """\
# What a request may hold

Everything else is refused with INVALID_ARGUMENT, the field and the range. NaN and infinities are outside of every
range, and so is what is too near to 0 to mean anything. A prompt has 1 to `gateway.max_prompt_chars` (32768)
characters, an upload at most `adapters.max_samples` (64) samples, tenant and name of an adapter 1 to 64 characters
each, and a tag 1 to 64 of a-z 0-9 . _ - with a letter or digit first. Made from `services/ramole/core/bounds.py`, which
checks it.

| field | range |
|---|---|"""

if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  # it is a page
