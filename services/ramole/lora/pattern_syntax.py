"""A safe subset of regular expressions, as a tree. `patterns` matches it; nothing here backtracks."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

MAX_GROUP_DEPTH = 6

OPERATORS = frozenset("\\[](){}*+?|^$")
_ESCAPES = {
    "d": frozenset(string.digits),
    "w": frozenset(string.ascii_letters + string.digits + "_"),
}


@dataclass(frozen=True, slots=True)
class Chars:
    """One character that is (not) in a set."""

    chars: frozenset[str]
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Anchor:
    """The start or the end of the text."""

    is_end: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """All parts, one after the other."""

    parts: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Either:
    """Any one of the options."""

    options: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``*``, ``+`` or ``?`` of the inner node."""

    inner: Node
    may_skip: bool
    may_repeat: bool


Node = Chars | Anchor | Chain | Either | Repeat


def parse_pattern(pattern: str) -> Node:
    """The tree of one pattern. Raises ValueError on anything outside of the subset that `patterns` documents."""
    return _Parser(pattern).parse()


class _Parser:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> Node:
        node = self._either(depth=0)
        if self._at < len(self._pattern):
            raise self._error()
        return node

    def _error(self) -> ValueError:
        return ValueError(f"unsupported regular expression {self._pattern!r} at character {self._at}")

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._error()
        self._at += 1
        return char

    def _skip(self, text: str) -> bool:
        is_here = self._pattern.startswith(text, self._at)
        self._at += len(text) if is_here else 0
        return is_here

    def _either(self, depth: int) -> Node:
        if depth > MAX_GROUP_DEPTH:
            raise self._error()
        options = [self._sequence(depth)]
        while self._skip("|"):
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else Either(options)

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeat(self._atom(depth)))
        return Chain(parts)

    def _repeat(self, atom: Node) -> Node:
        operator = self._peek()
        if operator not in ("*", "+", "?"):
            return atom
        self._at += 1
        self._skip("?")  # laziness changes which match is found, never whether there is one
        if isinstance(atom, Anchor) or self._peek() in ("*", "+", "?", "{"):
            raise self._error()
        return Repeat(atom, may_skip=operator != "+", may_repeat=operator != "?")

    def _atom(self, depth: int) -> Node:
        char = self._take()
        if char == "(":
            if self._peek() == "?" and not self._skip("?:"):
                raise self._error()
            inner = self._either(depth + 1)
            if not self._skip(")"):
                raise self._error()
            return inner
        if char == "[":
            return self._char_class()
        if char == "\\":
            return Chars(self._escape())
        if char in "^$":
            return Anchor(is_end=char == "$")
        if char == ".":
            return Chars(frozenset("\n"), is_negated=True)
        if char in OPERATORS:
            raise self._error()
        return Chars(frozenset(char))

    def _escape(self) -> frozenset[str]:
        char = self._take()
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char not in string.punctuation:
            raise self._error()
        return frozenset(char)

    def _char_class(self) -> Node:
        is_negated = self._skip("^")
        chars: set[str] = set()
        while not self._skip("]"):
            char = self._take()
            if char == "\\":
                chars |= self._escape()
            elif char == "[":
                raise self._error()
            elif self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._take()
                if last in "\\[" or ord(last) < ord(char):
                    raise self._error()
                chars |= {chr(code) for code in range(ord(char), ord(last) + 1)}
            else:
                chars.add(char)
        if not chars:
            raise self._error()
        return Chars(frozenset(chars), is_negated)
