"""PEFT's rule for the keys of rank_pattern and alpha_pattern, safe on patterns from strangers.

PEFT takes the first key for which ``re.match(rf"(.*\\.)?({key})$", module_name)`` holds. Python's `re` backtracks, so
one hostile key could keep a worker busy for years. Keys without operators (all that PEFT itself writes) are compared as
plain text; the others run on a matcher that carries the *set* of reachable positions through the pattern, within a
fixed number of steps, so that the answer is the same on every machine and always comes soon.
"""

from __future__ import annotations

from collections.abc import Iterable

from ramole.core.errors import AdapterRefused
from ramole.lora.pattern_syntax import OPERATORS, Anchor, Chain, Chars, Either, Node, parse_pattern

MAX_KEYS = 2048
MAX_PLAIN_CHARS = 256
MAX_REGEX_CHARS = 128
MAX_EXPRESSION_CHARS = 1024
MAX_REGEX_KEYS = 64
MAX_STEPS = 4_000_000


class PatternTable:
    """The keys of one pattern map, in their order.

    Expressions may hold literals, ``.``, ``\\d``, ``\\w``, escaped punctuation, ``[...]``, ``(...)``, ``(?:...)``,
    ``|``, ``*``, ``+``, ``?``, ``^`` and ``$``.

    Raises:
        AdapterRefused: too many or too long keys, or any other expression.
    """

    def __init__(self, keys: Iterable[str], *, field: str) -> None:
        self._field = field
        self._keys = list(keys)
        regexes = {key for key in self._keys if not OPERATORS.isdisjoint(key)}
        if len(self._keys) > MAX_KEYS or len(regexes) > MAX_REGEX_KEYS:
            raise self._refuse(f"{len(self._keys)} keys, {len(regexes)} of them regular expressions", "use fewer")
        for key in self._keys:
            if not 1 <= len(key) <= (MAX_REGEX_CHARS if key in regexes else MAX_PLAIN_CHARS) or not key.isascii():
                raise self._refuse(f"the key {key[:80]!r} is empty, too long or not ASCII", "use module names")
        try:
            self._compiled = {key: parse_pattern(key) for key in regexes}
        except ValueError as error:
            raise self._refuse(str(error), "use module names, or simpler expressions") from None
        self._walk = _Walk()

    def find(self, module: str) -> str | None:
        """The first key that matches the module's full name, or None.

        Raises:
            AdapterRefused: the keys need too much work.
        """
        for key in self._keys:
            pattern = self._compiled.get(key)
            if _matches_plain(key, module) if pattern is None else self._matches(pattern, module):
                return key
        return None

    def _matches(self, pattern: Node, module: str) -> bool:
        after_dots = {index + 1 for index, char in enumerate(module) if char == "."}
        try:
            return len(module) in self._walk.ends(pattern, module, {0, *after_dots})
        except TooMuchWork:
            raise self._refuse("the regular expressions need too much work", "use module names as keys") from None

    def _refuse(self, message: str, remedy: str) -> AdapterRefused:
        return AdapterRefused(message, field=self._field, remedy=remedy)


class Expression:
    """One expression, for whole names.

    Raises:
        ValueError: too long, or outside of what `PatternTable` takes.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_EXPRESSION_CHARS:
            raise ValueError(f"a regular expression of {len(pattern)} characters")
        self._pattern = parse_pattern(pattern)
        self._walk = _Walk()

    def matches(self, module: str) -> bool:
        """Whether it matches from the first character to the last. Raises TooMuchWork."""
        return len(module) in self._walk.ends(self._pattern, module, {0})


class TooMuchWork(Exception):
    """The expressions need more than `MAX_STEPS` steps."""


class _Walk:
    """Carries sets of positions through patterns, `MAX_STEPS` steps in all."""

    def __init__(self) -> None:
        self._steps_left = MAX_STEPS

    def ends(self, node: Node, text: str, starts: set[int]) -> set[int]:
        """The positions that `node` can end at when it begins at any of `starts`. Raises TooMuchWork."""
        self._steps_left -= 1 + len(starts)
        if self._steps_left < 0:
            raise TooMuchWork
        if isinstance(node, Chars):
            return {at + 1 for at in starts if at < len(text) and (text[at] in node.chars) != node.is_negated}
        if isinstance(node, Anchor):
            return starts & {len(text) if node.is_end else 0}
        if isinstance(node, Chain):
            for part in node.parts:
                starts = self.ends(part, text, starts)
            return starts
        if isinstance(node, Either):
            return set().union(*(self.ends(option, text, starts) for option in node.options))
        reached = set(starts) if node.may_skip else set()
        frontier = starts
        while frontier:
            frontier = self.ends(node.inner, text, frontier) - reached
            reached |= frontier
            if not node.may_repeat:
                break
        return reached


def _matches_plain(key: str, module: str) -> bool:
    """`key` has no operator but perhaps dots, which match any character, as in PEFT."""
    start = len(module) - len(key)
    if start < 0 or (start > 0 and module[start - 1] != "."):
        return False
    return module.endswith(key) or all(want in (".", got) for want, got in zip(key, module[start:], strict=True))
