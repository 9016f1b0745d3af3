"""The texts of a folder of adapters, as the retriever needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ramole.core.errors import InvalidInput
from ramole.lab.training.folders import peft_folders, read_json, read_samples
from ramole.zoo.catalog import PROMPTS, TASK

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
    return [_read_adapter(path) for path in peft_folders(folder)]


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
    samples = read_samples(folder)
    task = read_json(folder / TASK) if (folder / TASK).is_file() else {}
    prompts = read_json(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    try:
        cluster, split = str(task.get("cluster", folder.name)), str(task.get("split", TRAIN))
        queries = tuple(str(entry["prompt"]) for entry in prompts.get("test", ()))
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
    return AdapterTexts(folder.name, cluster, split, samples, queries)
