"""The texts of a folder of adapters, as the retriever needs them.

Each PEFT folder in it holds `samples.json`, a JSON list of typical inputs. A zoo's folders hold more, which may be
missing: `prompts.json` ({"train" | "dev" | "test": [{"prompt": ...}, ...]}) and `task.json` ({"cluster", "split"}).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ramole.core.errors import InvalidInput, NotFound
from ramole.lora.config import CONFIG_FILE

SAMPLES, PROMPTS, TASK = "samples.json", "prompts.json", "task.json"
MIN_SAMPLES = 2
TRAIN = "train"
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class AdapterTexts:
    """What is known of one adapter's inputs.

    Attributes:
        cluster: adapters of one cluster do similar things; the own name if nothing is known.
        split: "train" if retrievers may be trained with it; "train", "dev" or "test".
        samples: what an upload sends along.
        queries: prompts that its own adapter should be found for; none of them is a sample.
    """

    name: str
    cluster: str
    split: str
    samples: tuple[str, ...]
    queries: tuple[str, ...]


def read_texts(folder: Path) -> list[AdapterTexts]:
    """All adapters of a folder, by name.

    Where an adapter has no test prompts, a fifth of its samples stands in for them and is no sample any more.

    Raises:
        NotFound: no PEFT folder, or one without samples.
        InvalidInput: a file is malformed, or holds too few samples.
    """
    folders = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    if not folders:
        raise NotFound(
            f"no PEFT folder in {str(folder)!r}", field="--adapters", remedy=f"give a folder of folders with {SAMPLES}"
        )
    return [_read_adapter(path) for path in folders]


def choose(texts: Sequence[AdapterTexts], share: float, *, seed: int) -> list[AdapterTexts]:
    """The tasks to train with: a share of all tasks, drawn from those whose split is "train".

    Raises:
        InvalidInput: fewer than two remain: a contrast needs two.
    """
    allowed = [one for one in texts if one.split == TRAIN]
    count = min(len(allowed), round(share * len(texts)))
    if count < 2:
        raise InvalidInput(
            f"a share of {share:g} of {len(texts)} adapters leaves {count} for training",
            field="--share",
            remedy="give more adapters or a larger share; at least two adapters are needed",
        )
    chosen = set(Random(f"{seed}/retriever tasks").sample(range(len(allowed)), count))
    return [one for i, one in enumerate(allowed) if i in chosen]


def _read_adapter(folder: Path) -> AdapterTexts:
    path = folder / SAMPLES
    if not path.is_file():
        raise NotFound(f"no {SAMPLES} in {folder.name!r}", field="--adapters", remedy="give a JSON list of inputs")
    samples = _read(path)
    if not isinstance(samples, list) or not all(isinstance(text, str) and text.strip() for text in samples):
        raise InvalidInput(f"{path} holds no list of texts", field="--adapters", remedy="give typical inputs")
    samples = list(dict.fromkeys(samples))
    task = _read(folder / TASK) if (folder / TASK).is_file() else {}
    prompts = _read(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    try:
        cluster, split = str(task.get("cluster", folder.name)), str(task.get("split", TRAIN))
        queries = [str(entry["prompt"]) for entry in prompts.get("test", ())]
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{PROMPTS} or {TASK} of {folder.name!r} can not be read: {error!r}",
            field="--adapters",
            remedy='{"test": [{"prompt": ...}, ...]} and {"cluster": ..., "split": ...}',
        ) from None
    if not queries:
        num_held_out = max(1, round(_HELD_OUT_SHARE * len(samples)))
        samples, queries = samples[:-num_held_out], samples[-num_held_out:]
    if len(samples) < MIN_SAMPLES:
        raise InvalidInput(
            f"{folder.name!r} has {len(samples)} different samples beside its test prompts",
            field="--adapters",
            remedy=f"give at least {MIN_SAMPLES}, better 20",
        )
    return AdapterTexts(folder.name, cluster, split, tuple(samples), tuple(queries))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}", field="--adapters", remedy="repair the file") from None
