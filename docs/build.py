"""Builds the documentation site, strictly: a broken link is an error. Needs no network.

The pages lie where they do in the repository, so that the same links work here and there. What is made from code is
made now: the reference, and the list of decisions.

    python docs/build.py      # build/site/index.html
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import reference
import statuses

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "site-source"
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE")
FOLDERS = ("docs", "k8s", "ops", "protos")

_FENCE = re.compile(r"^```(\w+) .*$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]+)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def assemble() -> None:
    """Copies what people write, makes what code says."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for page in PAGES:
        shutil.copy(ROOT / page, SOURCE)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, SOURCE / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.json"))
    made = {
        "reference/api.md": reference.api_page(),
        "reference/settings.md": reference.settings_page(),
        "reference/errors.md": statuses.statuses_page(),
        "reference/cli.md": reference.cli_page(),
        "adr/index.md": reference.adr_page(ROOT / "docs" / "adr"),
    }
    for name, text in made.items():
        path = SOURCE / "docs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for path in SOURCE.rglob("*.md"):
        # What tests read in a fence's info string is nothing to a reader.
        path.write_text(_FENCE.sub(r"```\1", path.read_text()))


def broken_links() -> list[str]:
    """Links to files and pictures that are not there; the builder looks at pages and headings only."""
    broken = []
    for path in sorted(SOURCE.rglob("*.md")):
        for target in _LINK.findall(_CODE.sub("", path.read_text())):
            if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(SOURCE)}: {target} does not exist")
    return broken


def main() -> int:
    assemble()
    broken = broken_links()
    sys.stderr.writelines(f"{line}\n" for line in broken)
    if broken:
        return 1
    zensical = Path(sys.executable).with_name("zensical")
    return subprocess.run(
        [zensical, "build", "--strict", "--clean", "--config-file", ROOT / "zensical.toml"], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
