"""The two files of an adapter, in memory or mapped from a folder."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from ramole.core.errors import Corrupt
from ramole.lora.digest import content_digest
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE


@dataclass(frozen=True, slots=True)
class Content:
    """Both files. Mapped tensors stay readable when their file is removed."""

    config_json: bytes
    tensors: bytes | memoryview

    @property
    def num_bytes(self) -> int:
        """Size of both files."""
        return len(self.config_json) + len(self.tensors)

    @classmethod
    def of_folder(cls, folder: Path, digest: str) -> Content:
        """Maps and verifies the files in `folder`. Blocks.

        Raises:
            FileNotFoundError: one of them is not there.
            Corrupt: they do not have this digest.
        """
        config_json = (folder / CONFIG_FILE).read_bytes()
        return cls(config_json, map_file(folder / TENSORS_FILE)).verified(digest)

    @classmethod
    def copy_of_folder(cls, folder: Path, digest: str) -> Content:
        """The same, read into memory: what becomes of the files afterwards, even in place, changes nothing here.

        A map of a file that is cut short kills the process that reads it.
        """
        return cls((folder / CONFIG_FILE).read_bytes(), (folder / TENSORS_FILE).read_bytes()).verified(digest)

    def verified(self, digest: str) -> Content:
        """Itself. Raises Corrupt when the files do not have this digest."""
        if content_digest(self.config_json, self.tensors) != digest:
            raise Corrupt(
                f"the files of {digest} do not match their digest",
                field="digest",
                remedy="restore the store from a backup, or delete the adapter and upload it again",
            )
        return self


def map_file(path: Path) -> memoryview:
    """A file as a read-only map; it is read as it is used. Raises OSError."""
    # Never closed by hand: views of it may live on in the frames of an error. The last one unmaps it.
    with path.open("rb") as file:
        is_empty = file.seek(0, 2) == 0  # an empty file cannot be mapped
        return memoryview(b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
