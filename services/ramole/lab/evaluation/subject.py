"""What is evaluated: a base model, its adapters, and test prompts that say which adapter was made for them.

A folder of adapters is read as a zoo lays it out: PEFT folders, each with `samples.json` (a list of typical inputs) and
`prompts.json` ({"train", "dev", "test"}: lists of {"prompt", "answer"}).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ramole.core.errors import InvalidInput
from ramole.core.samples import json_lines
from ramole.core.texts import read_text
from ramole.lab.training.folders import peft_folders, read_json, read_samples
from ramole.mixture.router import MANIFEST
from ramole.zoo.catalog import PROMPTS, TASK, Example, Zoo


@dataclass(frozen=True, slots=True)
class SubjectAdapter:
    """One adapter with its task.

    Attributes:
        cluster: tasks of one cluster are reported together.
        path: a PEFT folder.
        samples: inputs that describe the adapter to the retriever.
        train: solved prompts, for methods that train or search; may be empty.
        tests: prompts with the one right answer.
        is_trained: whether router training has seen the adapter.
        is_retriever_trained: whether retriever training has.
    """

    name: str
    cluster: str
    path: Path
    samples: tuple[str, ...]
    train: tuple[Example, ...]
    tests: tuple[Example, ...]
    is_trained: bool = False
    is_retriever_trained: bool = False


@dataclass(frozen=True, slots=True)
class TwoSkill:
    """A prompt that needs two adapters at once, by their numbers."""

    example: Example
    adapters: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything that an evaluation reads. `routers` are RouterLoRA folders, one for each seed of its training."""

    name: str
    base: Path
    entries: tuple[SubjectAdapter, ...]
    two_skill: tuple[TwoSkill, ...] = ()
    routers: tuple[Path, ...] = ()


def zoo_subject(zoo: Zoo, *, routers: Sequence[Path] = ()) -> Subject:
    """A zoo. Without `routers` its own router is taken."""
    folders = tuple(routers) or (zoo.router_path,)
    number = {adapter.name: i for i, adapter in enumerate(zoo.adapters)}
    entries = tuple(
        SubjectAdapter(adapter.name, adapter.cluster, adapter.path, adapter.samples, adapter.train, adapter.prompts)
        for adapter in zoo.adapters
    )
    pairs = tuple(
        TwoSkill(Example(pair.prompt, pair.answer), (number[pair.adapters[0]], number[pair.adapters[1]]))
        for pair in zoo.pairs
    )
    return Subject(zoo.base_id, zoo.base_path, _mark(entries, folders), pairs, folders)


def folder_subject(base: Path, adapters: Path, *, tests: Path | None = None, routers: Sequence[Path] = ()) -> Subject:
    """A user's own base model and adapters.

    Args:
        tests: a file of test prompts instead of the folders' own, JSON Lines of {"prompt", "answer", "adapter"}; with
            {"adapters": [two names]} instead for a prompt that needs both.

    Raises:
        NotFound: no PEFT folder, or samples are missing.
        InvalidInput: a file is malformed, or names an adapter that is not there.
    """
    entries = tuple(read_entry(folder) for folder in peft_folders(adapters))
    two: tuple[TwoSkill, ...] = ()
    if tests is not None:
        names = [entry.name for entry in entries]
        single, double = read_prompts(tests, names)
        entries = tuple(replace(entry, tests=tuple(single.get(entry.name, ()))) for entry in entries)
        two = tuple(TwoSkill(example, (names.index(a), names.index(b))) for example, a, b in double)
    return Subject(adapters.name, base, _mark(entries, routers), two, tuple(routers))


def read_entry(folder: Path) -> SubjectAdapter:
    """One PEFT folder with its texts; `prompts.json` may be missing. Raises NotFound or InvalidInput."""
    samples = read_samples(folder)
    prompts = read_json(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    try:
        train, tests = (
            tuple(Example(str(e["prompt"]), str(e["answer"])) for e in prompts.get(part, ()))
            for part in ("train", "test")
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{folder / PROMPTS} can not be read: {error!r}",
            field="--adapters",
            remedy='{"train": [{"prompt": ..., "answer": ...}, ...], "test": [...]}',
        ) from None
    return SubjectAdapter(folder.name, "all", folder, samples, train, tests)


def read_update_entry(folder: Path) -> SubjectAdapter:
    """One PEFT folder of which only the weights, and the cluster if it has a `task.json`, matter."""
    task = read_json(folder / TASK) if (folder / TASK).is_file() else {}
    cluster = str(task.get("cluster", "all")) if isinstance(task, dict) else "all"
    return SubjectAdapter(folder.name, cluster, folder, (), (), ())


def read_prompts(path: Path, names: Iterable[str]) -> tuple[dict[str, list[Example]], list[tuple[Example, str, str]]]:
    """Prompts by adapter, and those of two adapters. Raises InvalidInput with the number of the offending line."""
    known = set(names)
    single: dict[str, list[Example]] = {}
    double: list[tuple[Example, str, str]] = []
    for number, entry in json_lines(read_text(path, field="--tests"), path.name, "--tests"):
        try:
            example = Example(str(entry["prompt"]), str(entry["answer"]))
            owners = [str(name) for name in entry.get("adapters") or [entry["adapter"]]]
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"line {number} of {path.name} can not be read: {error!r}",
                field="--tests",
                remedy='one {"prompt": ..., "answer": ..., "adapter": ...} a line',
            ) from None
        if unknown := [name for name in owners if name not in known]:
            raise InvalidInput(
                f"line {number} of {path.name} names adapter {unknown[0]!r}",
                field="--tests",
                remedy="name a PEFT folder",
            )
        if len(owners) == 1:
            single.setdefault(owners[0], []).append(example)
        else:
            double.append((example, owners[0], owners[1]))
    return single, double


def trained_tasks(router: Path) -> frozenset[str]:
    """The adapters that a router was trained with, as its manifest says; none if it does not say."""
    path = router / MANIFEST
    return frozenset(json.loads(path.read_text()).get("tasks", ())) if path.is_file() else frozenset()


def mark_retriever(subject: Subject, tasks: Iterable[str]) -> Subject:
    """The same, knowing which tasks a retriever was trained on."""
    known = frozenset(tasks)
    entries = tuple(replace(entry, is_retriever_trained=entry.name in known) for entry in subject.entries)
    return replace(subject, entries=entries)


def _mark(entries: tuple[SubjectAdapter, ...], routers: Sequence[Path]) -> tuple[SubjectAdapter, ...]:
    trained = trained_tasks(routers[0]) if routers else frozenset()
    return tuple(replace(entry, is_trained=entry.name in trained) for entry in entries)
