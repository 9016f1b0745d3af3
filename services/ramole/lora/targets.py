"""Which modules of a base model a config selects, by PEFT's rules: those that a complete file holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ramole.lora.patterns import Expression, TooMuchWork

_ALL_LINEAR = "all-linear"
_PLAIN_NAME = re.compile(r"\w+", re.ASCII)

Names = str | frozenset[str]


@dataclass(frozen=True, slots=True)
class Targets:
    """The keys of a config that select modules.

    Attributes:
        modules: target_modules: whole names or their ends, or one expression for whole names; empty = not said.
        excluded: exclude_modules, in the same way; empty = none.
        layers: layers_to_transform; None = all. It narrows the ends of names only.
        layer_lists: layers_pattern, the names of the lists that hold the layers, the first that fits; empty = any.
    """

    modules: Names = frozenset()
    excluded: Names = frozenset()
    layers: frozenset[int] | None = None
    layer_lists: tuple[str, ...] = ()

    def selected(self, modules: Collection[str], head: str = "") -> set[str] | None:
        """Those of `modules`, full names, that the config selects.

        Args:
            head: the output head of the base model, which "all-linear" leaves out; empty = it has none.

        Returns:
            None when it cannot be told: the config does not say it, or says it by an expression that is not read here.
        """
        if not self.modules or not all(_PLAIN_NAME.fullmatch(name) for name in self.layer_lists):
            return None
        try:
            included, excluded = self._included(modules, head), _named(modules, self.excluded)
        except (ValueError, TooMuchWork):
            return None
        return included - excluded

    def _included(self, modules: Collection[str], head: str) -> set[str]:
        if isinstance(self.modules, str) and self.modules.lower() == _ALL_LINEAR:
            return {module for module in modules if module != head}
        named = _named(modules, self.modules)
        if isinstance(self.modules, str) or self.layers is None:
            return named
        return {module for module in named if module in self.modules or self._layer_of(module) in self.layers}

    def _layer_of(self, module: str) -> int | None:
        """The number of the layer that a module lies in: the first behind a list's name that names follow."""
        parts = module.split(".")
        numbers = [at for at in range(1, len(parts) - 1) if re.fullmatch("[0-9]+", parts[at])]
        if self.layer_lists:
            found = [at for name in self.layer_lists for at in numbers if parts[at - 1] == name]
        else:
            # PEFT finds a list that is not named only behind something else.
            found = [at for at in numbers if at > 1]
        return int(parts[found[0]]) if found else None


def _named(modules: Collection[str], names: Names) -> set[str]:
    """Those that `names` holds, or whose end it holds; those that it matches where it is an expression."""
    if not names:
        return set()
    if isinstance(names, str):
        expression = Expression(names)
        return {module for module in modules if expression.matches(module)}
    return {module for module in modules if not names.isdisjoint(_ends(module))}


def _ends(module: str) -> Iterator[str]:
    """A name and what follows each of its dots."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module
