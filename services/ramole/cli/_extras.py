"""Commands that need more than a client does. Without their extra they end with one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Literal, ParamSpec, TypeVar

import typer

from ramole.cli._output import complain

P = ParamSpec("P")
T = TypeVar("T")

_SERVE = ("pydantic_settings", "ray", "torch")
_MODULES = {"serve": _SERVE, "lab": (*_SERVE, "datasets", "matplotlib", "peft")}
"""Some of what each extra of pyproject.toml brings, and a smaller install does not."""


def needing(extra: Literal["serve", "lab"]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A command that runs where `ramole[extra]` is installed. Looks for modules, loads none."""

    def checked(command: Callable[P, T]) -> Callable[P, T]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            missing = [name for name in _MODULES[extra] if find_spec(name) is None]
            if missing:
                complain(f"this command needs {', '.join(missing)}: pip install 'ramole[{extra}]'")
                raise typer.Exit(1)
            return command(*args, **kwargs)

        return run

    return checked
