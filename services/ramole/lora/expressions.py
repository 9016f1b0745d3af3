"""Regular expressions from strangers: PEFT's answer to them, in bounded time and memory.

PEFT hands them to Python's `re`, which backtracks: one hostile expression could keep a worker busy for years. Here RE2
matches them, whose time is linear in the text whatever the expression. Only what RE2 and `re` read alike is taken:
literals, ``.``, ``\\d``, ``\\w``, ``\\s``, ``\\b`` and their negations, escaped punctuation, ``[...]``, ``(...)``,
``(?:...)``, ``|``, ``*``, ``+``, ``?``, ``{n,m}``, ``^`` and ``$``.
"""

from __future__ import annotations

import re

import re2

from ramole.core.errors import AdapterRefused

MAX_EXPRESSION_CHARS = 4096
MAX_GROUP_DEPTH = 16

# Of one compiled expression with what it caches. RE2 refuses to compile, or gets slower, but never takes more.
MAX_BYTES = 2**20

# For all expressions of one config; a step is one instruction of a compiled expression at one character: some
# nanoseconds at worst, mostly far less. The expressions that people write need some thousand steps for a module.
MAX_STEPS = 2**27

OPERATORS = frozenset("\\[](){}*+?|^$")

_ESCAPE = r"\\[dDwWsS!-/:-@\[-`{-~]"
_RANGE_END = r"[^\\\[\]-]"
_TOKEN = re.compile(
    rf"""
      (?P<atom> [^{re.escape("".join(sorted(OPERATORS)))}] | {_ESCAPE}
        | \[ (?!\^\]) \^? -? (?: {_RANGE_END}-{_RANGE_END} | {_ESCAPE} | {_RANGE_END} )+ -? \]
        | \[ \^? - \] )
    | (?P<anchor> \^ | \$ | \\[bB] )
    | (?P<repeat> (?: [*+?] | \{{ [0-9]{{1,4}} (?: , [0-9]{{0,4}} )? \}} ) \?? )
    | (?P<open> \( (?: \?: | (?!\?) ) )
    | (?P<close> \) )
    | (?P<either> \| )
    """,
    re.VERBOSE,
)


class Work:
    """What the names and expressions of one config may still cost, in steps."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def spend(self, steps: int, field: str) -> None:
        """Raises AdapterRefused when none are left."""
        self._left -= steps
        if self._left < 0:
            raise AdapterRefused(
                "matching the modules needs too much work", field=field, remedy="name the modules instead"
            )


class Expression:
    """One expression.

    Args:
        field: where it stands, for errors.
        form: the expression of PEFT that it becomes a part of, with ``{}`` in its place.
        work: what all expressions of its config share.
        max_bytes: what it may take in memory.

    Raises:
        AdapterRefused: too long, or outside of what is read here.
    """

    def __init__(self, pattern: str, work: Work, *, field: str, form: str = "{}", max_bytes: int = MAX_BYTES) -> None:
        self._work = work
        self._field = field
        wrong = _wrong(pattern)
        if wrong:
            raise self._refuse(pattern, wrong)
        options = re2.Options()
        options.max_mem = max_bytes
        options.encoding = re2.Options.Encoding.LATIN1  # one byte is one character; names are ASCII
        options.log_errors = False
        try:
            self._regex = re2.compile(form.replace("{}", pattern).encode("ascii"), options)
        except re2.error as error:
            raise self._refuse(pattern, error.args[0].decode(errors="replace")) from None

    def matches_whole(self, name: str) -> bool:
        """Whether it matches from the first character to the last. Raises AdapterRefused: too much work."""
        self._spend(name)
        return self._regex.fullmatch(name.encode()) is not None

    def matches(self, name: str) -> bool:
        """Whether it matches at the start. Raises AdapterRefused: too much work."""
        self._spend(name)
        return self._regex.match(name.encode()) is not None

    def last_group(self, name: str) -> str | None:
        """What its last group holds, empty = nothing, when it matches at the start. Raises as `matches`."""
        self._spend(name)
        found = self._regex.match(name.encode())
        return None if found is None else (found[self._regex.groups] or b"").decode()

    def _spend(self, name: str) -> None:
        self._work.spend(self._regex.programsize * (len(name) + 1), self._field)

    def _refuse(self, pattern: str, why: str) -> AdapterRefused:
        return AdapterRefused(
            f"the regular expression {pattern[:80]!r} is not read here: {why[:120]}",
            field=self._field,
            remedy="name the modules instead, or use a simpler expression",
        )


def _wrong(pattern: str) -> str:
    """What keeps an expression from being read; empty = nothing that can be told without compiling it."""
    if len(pattern) > MAX_EXPRESSION_CHARS:
        return f"it has {len(pattern)} characters, the limit is {MAX_EXPRESSION_CHARS}"
    if not pattern.isascii():
        return "it is not ASCII, as the names of modules are"
    at, depth, can_repeat = 0, 0, False
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        kind = token and token.lastgroup
        if token is None or (kind == "repeat" and not can_repeat):
            where = f"{pattern[at : at + 8]!r} at character {at}"
            return f"{where} (no look-around, name or flag)" if pattern.startswith("(?", at) else where
        depth += (kind == "open") - (kind == "close")
        if depth > MAX_GROUP_DEPTH:
            return f"groups are nested deeper than {MAX_GROUP_DEPTH}"
        can_repeat = kind in ("atom", "close")
        at = token.end()
    return ""
