"""What a zoo folder contains and how it came about: the memory of the build, the check of the shipped data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramole.core.errors import Corrupt, NotFound, WrongState
from ramole.lora.digest import sha256_of

MANIFEST = "manifest.json"
FORMAT = 2


@dataclass(slots=True)
class Manifest:
    """The manifest of one folder.

    Attributes:
        root: the zoo folder.
        header: what the folder was built from: format, base id, seed, recipe, versions.
        stages: finished stages by name, each with `files` (relative path -> sha256) and `figures` (measured).
    """

    root: Path
    header: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Opens the manifest of a zoo folder.

        Raises:
            NotFound: there is none.
            Corrupt: it can not be read.
        """
        path = root / MANIFEST
        if not path.is_file():
            raise NotFound(f"no {MANIFEST} in {root.name!r}", field="zoo", remedy="build it with `ramole zoo build`")
        try:
            content = json.loads(path.read_text())
            stages = content.pop("stages")
        except (ValueError, KeyError) as error:
            raise Corrupt(f"{MANIFEST} can not be read: {error}", field="zoo", remedy="build the zoo again") from error
        if content.get("format") != FORMAT:
            raise WrongState(
                f"the zoo has format {content.get('format')}, not {FORMAT}", field="zoo", remedy="build it again"
            )
        return cls(root, content, stages)

    @classmethod
    def open(cls, root: Path, header: dict[str, Any]) -> Manifest:
        """The manifest to go on with: the one in `root`, or a new one.

        Raises:
            WrongState: the folder was built from something else.
        """
        header = {"format": FORMAT, **header}
        if not (root / MANIFEST).exists():
            return cls(root, header)
        manifest = cls.read(root)
        for key in ("base_id", "seed", "recipe"):
            if manifest.header.get(key) != header[key]:
                raise WrongState(
                    f"{root.name!r} was built with another {key}", field="zoo", remedy="build into an empty folder"
                )
        return manifest

    def is_done(self, stage: str) -> bool:
        """Whether the stage is finished and its files are as it left them."""
        return stage in self.stages and not self._damaged(stage)

    def finish(self, stage: str, path: Path | None, figures: dict[str, Any]) -> None:
        """Notes a finished stage with its file, all files of its folder or none, and writes the manifest."""
        found = [] if path is None else [path] if path.is_file() else sorted(path.rglob("*"))
        files = {file.relative_to(self.root).as_posix(): sha256_of(file) for file in found if file.is_file()}
        self.stages[stage] = {"figures": figures, "files": files}
        self._write()

    def forget(self, *stages: str) -> None:
        """These have to be made again."""
        for stage in stages:
            self.stages.pop(stage, None)
        self._write()

    def sort(self, order: Sequence[str]) -> None:
        """Brings the stages into this order, whatever order they were finished in; others follow."""
        self.stages = {name: self.stages[name] for name in (*order, *self.stages) if name in self.stages}
        self._write()

    def _write(self) -> None:
        text = json.dumps({**self.header, "stages": self.stages}, indent=1) + "\n"
        draft = self.root / f"{MANIFEST}.part"
        draft.write_text(text)
        draft.replace(self.root / MANIFEST)

    def figures(self, stage: str) -> dict[str, Any]:
        """What a finished stage measured."""
        found: dict[str, Any] = self.stages[stage]["figures"]
        return found

    def verify(self) -> None:
        """Raises Corrupt unless every file of every stage has its digest."""
        for stage in self.stages:
            if damaged := self._damaged(stage):
                raise Corrupt(f"{damaged[0]} is missing or changed", field="zoo", remedy="install the package again")

    def _damaged(self, stage: str) -> list[str]:
        files: dict[str, str] = self.stages[stage]["files"]
        return [
            name
            for name, digest in files.items()
            if not (self.root / name).is_file() or sha256_of(self.root / name) != digest
        ]
