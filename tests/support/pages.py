"""The examples that README and the guides show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "guide").glob("*.md")))

NOT_RUN = "not-run: "
"""Begins a fence's info string, after the language; the reason follows."""

_FENCE = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One fenced block."""

    page: Path
    language: str
    info: str
    text: str

    @property
    def is_run(self) -> bool:
        """Whether a test runs it."""
        return not self.info.startswith(NOT_RUN)

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.strip().splitlines()[0][:50]}"


def examples(language: str) -> list[Example]:
    """All blocks of one language, in the order of the pages."""
    found = [Example(page, *match) for page in PAGES for match in _FENCE.findall(page.read_text())]
    return [example for example in found if example.language == language]
