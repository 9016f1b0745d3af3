"""Which texts are for training and which for testing. A test input never occurs anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ramole.zoo.families import Item
from ramole.zoo.tasks import NUM_WORDINGS, Task

HELD_OUT_WORDING = NUM_WORDINGS - 1
MAX_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the one right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class TaskData:
    """The texts of one task.

    Attributes:
        task: which task.
        samples: m prompts that describe the adapter to the retriever.
        train: examples for adapter and router training; may repeat.
        dev: more examples of the same kind, for choosing and calibrating.
        test: examples whose inputs are in neither; every second one in the held-out wording.
        test_inputs: the inputs of `test`, which pre-training avoids as well (facts excepted: a model that
            has never been told a fact can not know it).
    """

    task: Task
    samples: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    test_inputs: frozenset[str]


def split(
    task: Task, *, seed: int, num_train: int = 400, num_samples: int = 20, num_dev: int = 8, num_test: int = 16
) -> TaskData:
    """Draws the texts of one task; the same for a seed, whatever the process.

    Raises:
        ValueError: the task has too few different inputs.
    """
    rng = Random(f"{seed}/{task.name}")
    items = _distinct(task, rng, num_test)
    test_inputs = frozenset(item.text for item in items)
    test = []
    for i, item in enumerate(items):
        wording = HELD_OUT_WORDING if i % 2 else rng.randrange(HELD_OUT_WORDING)
        test.append(Example(task.prompt(wording, item), task.answer(item)))
    train = [_training_example(task, rng, test_inputs) for _ in range(num_train)]
    samples = list(dict.fromkeys(example.prompt for example in train))[:num_samples]
    if len(samples) < num_samples:
        raise ValueError(f"task {task.name} has only {len(samples)} different prompts")
    dev = [_training_example(task, rng, test_inputs) for _ in range(num_dev)]
    return TaskData(task, tuple(samples), tuple(train), tuple(dev), tuple(test), test_inputs)


def split_all(tasks: Sequence[Task], *, seed: int) -> list[TaskData]:
    """`split` for each task, in their order."""
    return [split(task, seed=seed) for task in tasks]


def _distinct(task: Task, rng: Random, count: int) -> list[Item]:
    items: dict[str, Item] = {}
    for _ in range(MAX_DRAWS):
        item = task.draw(rng)
        items.setdefault(item.text, item)
        if len(items) == count:
            return list(items.values())
    raise ValueError(f"task {task.name} has only {len(items)} different inputs")


def _training_example(task: Task, rng: Random, avoid: frozenset[str]) -> Example:
    for _ in range(MAX_DRAWS):
        item = task.draw(rng)
        if item.text not in avoid:
            return Example(task.prompt(rng.randrange(HELD_OUT_WORDING), item), task.answer(item))
    raise ValueError(f"task {task.name} has no inputs left for training")
