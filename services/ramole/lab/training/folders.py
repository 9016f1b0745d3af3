"""A folder of adapters on disk: PEFT folders, each with `samples.json`, a JSON list of typical inputs.

More may be there: `prompts.json` ({"train" | "dev" | "test": [{"prompt": ..., "answer": ...}, ...]}) and `task.json`
({"cluster": ..., "split": ...}).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ramole.core.errors import NotFound
from ramole.core.samples import read_json as json_of_file
from ramole.core.samples import read_samples as samples_of_file
from ramole.lora.files import CONFIG_FILE
from ramole.zoo.catalog import SAMPLES


def peft_folders(adapters: Path) -> list[Path]:
    """The PEFT folders in a folder, by name. Raises NotFound when there is none."""
    folders = sorted(path.parent for path in adapters.glob(f"*/{CONFIG_FILE}"))
    if not folders:
        raise NotFound(
            f"no PEFT folder in {str(adapters)!r}",
            field="--adapters",
            remedy=f"give a folder of folders, each with {CONFIG_FILE} and {SAMPLES}",
        )
    return folders


def read_samples(folder: Path) -> tuple[str, ...]:
    """Different typical inputs of one adapter. Raises NotFound without a file, InvalidInput when it is malformed."""
    path = folder / SAMPLES
    if not path.is_file():
        raise NotFound(f"no {SAMPLES} in {folder.name!r}", field="--adapters", remedy="give a JSON list of inputs")
    return tuple(dict.fromkeys(samples_of_file(path, field="--adapters").texts))


def read_json(path: Path) -> Any:
    """Raises InvalidInput when the file is not JSON."""
    return json_of_file(path, field="--adapters")
