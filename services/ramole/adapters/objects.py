"""Content-addressed adapter files: ``objects/<aa>/<digest>/{adapter_config.json,adapter_model.safetensors}``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ramole.adapters.files import make_folder, remove_folder, sync_folder, write_file
from ramole.core.errors import Corrupt, NotFound
from ramole.lora.config import CONFIG_FILE
from ramole.lora.digest import content_digest
from ramole.lora.header import TENSORS_FILE


@dataclass(frozen=True, slots=True)
class Content:
    """The two files of an adapter, in memory."""

    config_json: bytes
    tensors: bytes

    @property
    def num_bytes(self) -> int:
        """Size of both files."""
        return len(self.config_json) + len(self.tensors)


class ObjectFolder:
    """The objects below `root`. `scratch` is a folder on the same file system."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch

    def add(self, digest: str, config_json: bytes, tensors_path: Path) -> None:
        """Moves an upload in. `tensors_path` is already synced to disk and is gone afterwards.

        An object appears with both files or not at all. Content that is already there is kept.
        """
        target = self._path(digest)
        if target.exists():
            tensors_path.unlink()
            return
        draft = self._scratch / uuid4().hex
        draft.mkdir()
        try:
            write_file(draft / CONFIG_FILE, config_json)
            tensors_path.rename(draft / TENSORS_FILE)
            sync_folder(draft)
            make_folder(target.parent)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft)
            raise
        sync_folder(target.parent)

    def read(self, digest: str) -> Content:
        """Reads and verifies one object.

        Raises:
            NotFound: there is none.
            Corrupt: the bytes on disk no longer have this digest.
        """
        folder = self._path(digest)
        try:
            content = Content((folder / CONFIG_FILE).read_bytes(), (folder / TENSORS_FILE).read_bytes())
        except FileNotFoundError:
            if folder.exists():
                raise _corrupt(digest) from None
            raise NotFound(f"no adapter has digest {digest}", field="digest") from None
        if content_digest(content.config_json, content.tensors) != digest:
            raise _corrupt(digest)
        return content

    def remove(self, digest: str) -> None:
        """Frees an object. Missing is fine."""
        remove_folder(self._path(digest), self._scratch)

    def digests(self) -> Iterator[str]:
        """All objects on disk."""
        return (path.name for path in self._root.glob("*/*"))

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest


def _corrupt(digest: str) -> Corrupt:
    return Corrupt(
        f"the stored files of {digest} no longer match their digest",
        field="digest",
        remedy="restore the store from a backup, or delete the adapter and upload it again",
    )
