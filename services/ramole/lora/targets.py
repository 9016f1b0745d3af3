"""Which modules of a base model a config selects, by PEFT's rules: those that its file must hold, and no others."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, field

from ramole.lora.expressions import Expression, Work
from ramole.lora.patterns import name_ends

_ALL_LINEAR = "all-linear"

# PEFT's: the number of the layer that a module lies in, behind the list that holds the layers.
_ANY_LIST = r".*?\.[^.]*\.(\d+)\."
_THIS_LIST = r"(?:^|.*?\.){}\.(\d+)\."

Names = str | frozenset[str]


@dataclass(frozen=True, slots=True)
class Targets:
    """The keys of a config that select modules.

    Attributes:
        modules: target_modules: whole names or their ends, or one expression for whole names.
        excluded: exclude_modules, in the same way; empty = none.
        layers: layers_to_transform; None = all. It narrows the ends of names only.
        layer_lists: layers_pattern, expressions for the list that holds the layers, the first that fits; empty = any.
        file: the config's, for errors.
    """

    modules: Names
    excluded: Names = frozenset()
    layers: frozenset[int] | None = None
    layer_lists: tuple[str, ...] = ()
    file: str = ""
    work: Work = field(default_factory=Work, repr=False, compare=False)

    def selected(self, modules: Collection[str], head: str = "") -> set[str]:
        """Those of `modules`, full names, that the config selects.

        Args:
            head: the output head of the base model, which "all-linear" leaves out; empty = it has none.

        Raises:
            AdapterRefused: an expression is not read here, or needs too much work.
        """
        return self._of_layers(self._included(modules, head)) - self._excluded(modules)

    def key_against(self, module: str) -> str:
        """The key by which a module is not selected. Raises as `selected`."""
        if self._excluded([module]):
            return "exclude_modules"
        return "layers_to_transform" if self._included([module], "") and self.layers else "target_modules"

    def _included(self, modules: Collection[str], head: str) -> set[str]:
        if isinstance(self.modules, str) and self.modules.lower() == _ALL_LINEAR:
            return {module for module in modules if module != head}
        return self._named(modules, self.modules, "target_modules")

    def _excluded(self, modules: Collection[str]) -> set[str]:
        return self._named(modules, self.excluded, "exclude_modules") if self.excluded else set()

    def _of_layers(self, modules: set[str]) -> set[str]:
        if self.layers is None or isinstance(self.modules, str):
            return modules
        lists = [self._expression(name, "layers_pattern", _THIS_LIST) for name in self.layer_lists]
        lists = lists or [self._expression("", "layers_to_transform", _ANY_LIST)]
        whole: Set[str] = self.modules
        return {module for module in modules if module in whole or self._layer_of(module, lists) in self.layers}

    def _named(self, modules: Collection[str], names: Names, key: str) -> set[str]:
        """Those that `names` holds, or whose end it holds; those that it matches where it is an expression."""
        if isinstance(names, str):
            expression = self._expression(names, key)
            return {module for module in modules if expression.matches_whole(module)}
        return {module for module in modules if not names.isdisjoint(name_ends(module))}

    def _expression(self, pattern: str, key: str, form: str = "{}") -> Expression:
        return Expression(pattern, self.work, field=f"{self.file}:{key}", form=form)

    @staticmethod
    def _layer_of(module: str, lists: list[Expression]) -> int | None:
        numbers = (expression.last_group(module) for expression in lists)
        number = next((number for number in numbers if number is not None), "")
        return int(number) if number else None
