"""Opens a zoo: paths, tasks, prompts. Reads JSON only; loads no model.

A zoo folder holds

    manifest.json            what it was built from; each stage's files with digests and what was measured
    base/                    a causal LM and its tokenizer, as the Auto classes read them
    adapters/NAME/           a PEFT folder, and beside its two files
        task.json            cluster, group, split, siblings, rank, targets
        samples.json         the m prompts that an upload sends along
        prompts.json         {"train" | "dev" | "test": [{"prompt", "answer"}, ...]}
    pairs.json               prompts that need two adapters at once
    router/                  a RouterLoRA
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ramole.zoo.manifest import Manifest

__all__ = ["Example", "PairPrompt", "Split", "Zoo", "ZooAdapter", "load_zoo"]

SHIPPED_RETRIEVER = Path(__file__).parent / "retriever"
"""Reads the shipped base model beside the shipped encoder; fitted on the training tasks of the full world."""

BASE_ID = "ramole/zoo-base"
BASE_STAGE = "base"
ROUTER_STAGE = "router"
PAIRS_STAGE = "pairs"
ADAPTERS = "adapters"
PAIRS = "pairs.json"
SAMPLES, PROMPTS, TASK = "samples.json", "prompts.json", "task.json"
"""Beside the two files of an adapter."""

SEPARATOR = " ; "
"""Between the two answers to a prompt that asks for two."""


class Split(StrEnum):
    """What a task may be used for: training of retriever and router, choosing among methods, or the final figures."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the one right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class PairPrompt:
    """A test prompt that asks for two skills.

    Attributes:
        adapters: the names of the two, in the order of the answers.
        split: the later one of the two tasks' splits.
        prompt: the text.
        answers: what each of the two contributes.
    """

    adapters: tuple[str, str]
    split: Split
    prompt: str
    answers: tuple[str, str]

    @property
    def answer(self) -> str:
        """The one right answer to the whole prompt."""
        return SEPARATOR.join(self.answers)


@dataclass(frozen=True, slots=True)
class ZooAdapter:
    """One adapter with its task.

    Attributes:
        name: of the adapter and of its task.
        cluster: adapters of one cluster do similar things.
        group: the skill group; its tasks ask for the same skill of inputs from different domains.
        split: what the task may be used for.
        is_new_skill: whether no task of its group is in the split `train` or `dev`.
        siblings: adapters of the same group and output style: they can stand in for this one.
        rank, targets: of the LoRA.
        path: a PEFT folder.
        samples: what an upload sends along.
        train: prompts with the one right answer, in the wordings and with the kind of inputs of the samples.
        dev: the same kind of prompts; inputs that are in no other list.
        prompts: test prompts; every second one in a wording that occurs in no other list, and more chatter before it.
        exact_match: share of `prompts` that the adapter alone answers right.
        base_exact_match: the same for the base without adapters.
    """

    name: str
    cluster: str
    group: str
    split: Split
    is_new_skill: bool
    siblings: tuple[str, ...]
    rank: int
    targets: tuple[str, ...]
    path: Path
    samples: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    prompts: tuple[Example, ...]
    exact_match: float
    base_exact_match: float


@dataclass(frozen=True, slots=True)
class Zoo:
    """The whole world. `base_id` is the name by which the adapters call their base model."""

    base_id: str
    base_path: Path
    router_path: Path
    adapters: tuple[ZooAdapter, ...]
    pairs: tuple[PairPrompt, ...]

    def of(self, *splits: Split) -> tuple[ZooAdapter, ...]:
        """The adapters whose task is in one of these splits."""
        return tuple(adapter for adapter in self.adapters if adapter.split in splits)


def load_zoo(root: Path | None = None) -> Zoo:
    """Opens and verifies a zoo; None = the one that ships with the package.

    Raises:
        NotFound: `root` holds no zoo.
        Corrupt: a file does not have the digest that the manifest says.
    """
    root = root or Path(__file__).parent / "data"
    manifest = Manifest.read(root)
    manifest.verify()
    adapters = tuple(_adapter(root, manifest, stage) for stage in manifest.stages if stage.startswith(f"{ADAPTERS}/"))
    pairs = tuple(_pair(entry) for entry in _read(root / PAIRS))
    return Zoo(manifest.header["base_id"], root / BASE_STAGE, root / ROUTER_STAGE, adapters, pairs)


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _adapter(root: Path, manifest: Manifest, stage: str) -> ZooAdapter:
    path, figures = root / stage, manifest.figures(stage)
    task, prompts = _read(path / TASK), _read(path / PROMPTS)
    return ZooAdapter(
        name=path.name,
        cluster=task["cluster"],
        group=task["group"],
        split=Split(task["split"]),
        is_new_skill=task["is_new_skill"],
        siblings=tuple(task["siblings"]),
        rank=task["rank"],
        targets=tuple(task["targets"]),
        path=path,
        samples=tuple(_read(path / SAMPLES)),
        train=_examples(prompts["train"]),
        dev=_examples(prompts["dev"]),
        prompts=_examples(prompts["test"]),
        exact_match=figures["exact_match"],
        base_exact_match=figures["base_exact_match"],
    )


def _examples(entries: list[Mapping[str, str]]) -> tuple[Example, ...]:
    return tuple(Example(**entry) for entry in entries)


def _pair(entry: Mapping[str, Any]) -> PairPrompt:
    first, second = entry["adapters"]
    answer, other = entry["answers"]
    return PairPrompt((first, second), Split(entry["split"]), entry["prompt"], (answer, other))
