"""RouterLoRA on disk: an ordinary PEFT LoRA folder (A_r as lora_A, B_r as lora_B, scaling 1) and a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ramole.core.errors import NotFound
from ramole.lora.digest import content_digest
from ramole.lora.files import FILES, read_folder
from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.lora.writer import save_adapter

MANIFEST = "router.json"


def load_router(folder: Path) -> AdapterWeights:
    """Reads A_r [Q, d] and B_r [o, Q] of every module.

    Raises:
        NotFound: the folder is not a router.
        AdapterRefused: the files are damaged.
    """
    if not all((folder / name).is_file() for name in FILES):
        raise NotFound(
            f"no RouterLoRA in {folder.name!r}",
            field="executor.router",
            remedy=f"give a folder with {' and '.join(FILES)}, or leave the setting empty to run without a router",
        )
    return read_adapter(*read_folder(folder))


def router_digest(folder: Path) -> str:
    """sha256 over both files, as an adapter's."""
    return content_digest(*read_folder(folder))


def save_router(folder: Path, pairs: Mapping[str, LoraPair], *, base_id: str, manifest: Mapping[str, Any]) -> None:
    """Writes a router so that PEFT can open it too. `manifest` says where it comes from and how good it is."""
    save_adapter(folder, pairs, base_id=base_id)
    rank = next(iter(pairs.values())).rank
    (folder / MANIFEST).write_text(json.dumps({"base_id": base_id, "rank": rank, **manifest}, indent=1) + "\n")
