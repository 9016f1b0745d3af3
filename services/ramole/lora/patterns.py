"""PEFT's rule for the keys of rank_pattern and alpha_pattern, safe on patterns from strangers.

PEFT takes the first key for which ``re.match(rf"(.*\\.)?({key})$", module_name)`` holds. Keys without operators (all
that PEFT itself writes) are looked up as text, so that thousands of them cost no more than one; `expressions` matches
the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ramole.core.errors import AdapterRefused
from ramole.lora.expressions import OPERATORS, Expression, Work

MAX_KEYS = 2048
MAX_PLAIN_CHARS = 256
MAX_REGEX_CHARS = 128
MAX_REGEX_KEYS = 64
MAX_REGEX_BYTES = 2**18

_FORM = r"(.*\.)?({})$"

# Of a look-up, in the unit of `Work`.
_LOOK_UP_STEPS = 100


class PatternTable:
    """The keys of one pattern map, in their order.

    Raises:
        AdapterRefused: too many or too long keys, or an expression that is not read here.
    """

    def __init__(self, keys: Iterable[str], work: Work, *, field: str) -> None:
        self._work = work
        self._field = field
        self._keys = list(keys)
        regexes = {key for key in self._keys if not OPERATORS.isdisjoint(key)}
        if len(self._keys) > MAX_KEYS or len(regexes) > MAX_REGEX_KEYS:
            raise self._refuse(f"{len(self._keys)} keys, {len(regexes)} of them regular expressions", "use fewer")
        self._plain: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}  # by length, by the places of dots
        self._expressions: list[tuple[int, Expression]] = []
        for index, key in enumerate(self._keys):
            if not 1 <= len(key) <= (MAX_REGEX_CHARS if key in regexes else MAX_PLAIN_CHARS) or not key.isascii():
                raise self._refuse(f"the key {key[:80]!r} is empty, too long or not ASCII", "use module names")
            if key in regexes:
                expression = Expression(key, work, field=field, form=_FORM, max_bytes=MAX_REGEX_BYTES)
                self._expressions.append((index, expression))
            else:
                dots = tuple(at for at, char in enumerate(key) if char == ".")
                self._plain.setdefault(len(key), {}).setdefault(dots, {}).setdefault(key, index)

    def find(self, module: str) -> str | None:
        """The first key that matches the module's full name, or None.

        Raises:
            AdapterRefused: the keys need too much work.
        """
        first = min(self._plain_matches(module), default=len(self._keys))
        for index, expression in self._expressions:
            if index > first:
                break
            if expression.matches(module):
                first = index
                break
        return self._keys[first] if first < len(self._keys) else None

    def _plain_matches(self, module: str) -> Iterator[int]:
        """Keys are the ends of names, from a dot on; a dot in a key matches any character, as in PEFT."""
        for end in name_ends(module):
            for dots, keys in self._plain.get(len(end), {}).items():
                self._work.spend(_LOOK_UP_STEPS + len(dots), self._field)
                index = keys.get(_with_dots(end, dots))
                if index is not None:
                    yield index

    def _refuse(self, message: str, remedy: str) -> AdapterRefused:
        return AdapterRefused(message, field=self._field, remedy=remedy)


def name_ends(module: str) -> Iterator[str]:
    """A name and what follows each of its dots."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


def _with_dots(text: str, places: tuple[int, ...]) -> str:
    chars = list(text)
    for place in places:
        chars[place] = "."
    return "".join(chars)
