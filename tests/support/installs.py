"""Smaller installs than that of the tests: which modules they have, and an interpreter that finds no others."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

_ONLY = """
import json, sys

class Only:
    def __init__(self, finders, names):
        self.finders, self.names = finders, names
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names or name.startswith("_sysconfigdata"):
            specs = (finder.find_spec(name, path, target) for finder in self.finders)
            return next(filter(None, specs), None)

found = json.loads(sys.argv.pop(1))
sys.meta_path[:] = [Only(list(sys.meta_path), {*sys.stdlib_module_names, "ramole", *found})]
"""


@cache
def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def declared(extra: str = "") -> list[Requirement]:
    """What pyproject.toml itself names: for every install, or for one of the extras."""
    texts = project()["optional-dependencies"][extra] if extra else project()["dependencies"]
    return [Requirement(text) for text in texts]


@cache
def modules_of(extra: str = "") -> list[str]:
    """Top-level modules of everything that ``pip install ramole[extra]`` brings, ramole's own apart."""
    wanted, seen = [*declared(), *(declared(extra) if extra else ())], set[tuple[str, str]]()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for part in ("", *requirement.extras):
            if (name, part) in seen:
                continue
            seen.add((name, part))
            needed = declared(part) if name == "ramole" else map(Requirement, requires(name) or ())
            wanted += (each for each in needed if each.marker is None or each.marker.evaluate({"extra": part}))
    names = {name for name, _ in seen}
    return [
        module for module, owners in packages_distributions().items() if names & set(map(canonicalize_name, owners))
    ]


async def run_with(modules: Sequence[str] | None, code: str, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `code` in an interpreter that finds these modules and ramole; None = all."""
    script, found = (code, []) if modules is None else (_ONLY + code, [json.dumps(list(modules))])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *found, *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
