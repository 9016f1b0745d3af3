"""`import ramole`: every public name, and nothing else."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import ramole


def kind_and_name(name: str) -> tuple[int, str]:
    """Constants, then classes, then all others."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_every_name_is_there() -> None:
    assert all(hasattr(ramole, name) for name in ramole.__all__)
    assert set(ramole.__all__) <= set(dir(ramole))


def test_names_are_sorted() -> None:
    assert ramole.__all__ == sorted(set(ramole.__all__), key=kind_and_name)


def test_nothing_public_is_left_out() -> None:
    for name in ramole.__all__:  # loads it
        getattr(ramole, name)
    public = {
        name for name, value in vars(ramole).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | {"__version__"} == set(ramole.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ramole.Nothing  # noqa: B018
    assert not hasattr(ramole, "AdapterName")  # in a module where other names are public


def test_everything_is_documented() -> None:
    for name in ramole.__all__:
        value = getattr(ramole, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            text = value.__doc__ or ""
            assert text, name
            assert not text.startswith(f"{name}("), name  # what a dataclass says of itself


def test_every_class_of_the_public_modules_is_public() -> None:
    from ramole import client
    from ramole.core import errors

    assert set(client.__all__) <= set(ramole.__all__)
    own = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert own <= set(ramole.__all__)


def test_the_version_is_that_of_the_package() -> None:
    assert ramole.__version__ == importlib.metadata.version("ramole")


def test_importing_it_loads_nothing() -> None:
    code = "import sys, ramole; print(*(name for name in sys.modules if name.startswith(('ramole', 'grpc'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ramole\n"
