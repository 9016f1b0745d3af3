"""Content-addressed adapter files: ``objects/<aa>/<digest>/{adapter_config.json,adapter_model.safetensors}``."""

from __future__ import annotations

from pathlib import Path

from ramole.adapters.store.files import Files
from ramole.core.errors import NotFound
from ramole.lora.content import Content
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE

_FOLDER = "objects"


class Objects:
    """The objects of a store. They may lie half written: what makes one exist is a version that names it."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def add(self, digest: str, config_json: bytes, tensors_path: Path) -> None:
        """Takes an upload in; doing it again changes nothing. `tensors_path` is synced and may be gone afterwards."""
        self._files.write(_key(digest, CONFIG_FILE), config_json)
        self._files.take(_key(digest, TENSORS_FILE), tensors_path)

    def read(self, digest: str) -> Content:
        """Reads and verifies one object.

        Raises:
            NotFound: there is none.
            Corrupt: the stored bytes no longer have this digest.
        """
        tensors = self._read(digest, TENSORS_FILE)
        config_json = self._read(digest, CONFIG_FILE)
        if tensors is None and config_json is None:
            raise NotFound(f"no adapter has digest {digest}", field="digest")
        return Content(config_json or b"", tensors or b"").verified(digest)

    def folder(self, digest: str) -> Path | None:
        """Where the files of an object lie on this machine's disk, if it has one; None if they lie elsewhere."""
        path = self._files.path(_key(digest, TENSORS_FILE))
        return None if path is None else path.parent

    def remove(self, digest: str) -> None:
        """Frees an object. Missing is fine."""
        for name in (TENSORS_FILE, CONFIG_FILE):
            self._files.remove(_key(digest, name))

    def digests(self) -> set[str]:
        """All objects, half written ones too."""
        return {parts[2] for key in self._files.keys(_FOLDER) if len(parts := key.split("/")) == 4}

    def _read(self, digest: str, name: str) -> bytes | None:
        try:
            return self._files.read(_key(digest, name))
        except FileNotFoundError:
            return None


def _key(digest: str, name: str) -> str:
    return f"{_FOLDER}/{digest[:2]}/{digest}/{name}"
