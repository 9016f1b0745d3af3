"""Which texts are for training and which for testing. A test input never occurs in any training text of any task."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from ramole.lab.factory.families import Item
from ramole.lab.factory.skills import HELD_OUT_WORDING
from ramole.lab.factory.tasks import JOINERS, Task, some_chatter
from ramole.zoo.catalog import Example, PairPrompt, Split

MAX_DRAWS = 10_000
TRAIN_CHATTER, TEST_CHATTER = 0.25, 0.6


@dataclass(frozen=True, slots=True)
class TaskData:
    """The texts of one task.

    Attributes:
        task: which task.
        samples: m prompts that describe the adapter to the retriever.
        train: examples for adapter and router training; may repeat.
        dev: examples of the same kind with inputs that occur in neither of the others, for choosing and calibrating.
        test: examples with more chatter whose inputs no training text has; every second one in the held-out wording.
    """

    task: Task
    samples: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


def part_of(text: str) -> Split:
    """What an input may be used for: one of eight is for tests, one for dev. The same for all tasks and seeds."""
    bucket = zlib.crc32(text.encode()) % 8
    return Split.TEST if bucket == 0 else Split.DEV if bucket == 1 else Split.TRAIN


def split(
    task: Task, *, seed: int, num_train: int = 400, num_samples: int = 20, num_dev: int = 8, num_test: int = 16
) -> TaskData:
    """Draws the texts of one task; the same for a seed, whatever the process.

    Raises:
        ValueError: the task has too few different inputs.
    """
    rng = Random(f"{seed}/{task.name}")
    test = []
    for i, item in enumerate(_distinct(task, rng, Split.TEST, num_test)):
        wording = HELD_OUT_WORDING if i % 2 else rng.randrange(HELD_OUT_WORDING)
        test.append(_example(task, wording, item, some_chatter(rng, TEST_CHATTER)))
    train = [_training_example(task, rng, draw_item(task, rng, Split.TRAIN)) for _ in range(num_train)]
    dev = [_training_example(task, rng, item) for item in _distinct(task, rng, Split.DEV, num_dev)]
    samples = list(dict.fromkeys(example.prompt for example in train))[:num_samples]
    if len(samples) < num_samples:
        raise ValueError(f"task {task.name} has only {len(samples)} different prompts")
    return TaskData(task, tuple(samples), tuple(train), tuple(dev), tuple(test))


def split_all(tasks: Sequence[Task], *, seed: int) -> list[TaskData]:
    """`split` for each task, in their order."""
    return [split(task, seed=seed) for task in tasks]


def draw_item(task: Task, rng: Random, part: Split) -> Item:
    """A random input of this part; facts have no parts, a model can not know what it has never been told.

    Raises:
        ValueError: the task has too few inputs.
    """
    for _ in range(MAX_DRAWS):
        item = task.draw(rng)
        if task.is_closed_book or part_of(item.text) is part:
            return item
    raise ValueError(f"task {task.name} has no inputs for {part.value}")


def make_pairs(tasks: Sequence[Task], *, seed: int, num_prompts: int = 2) -> list[PairPrompt]:
    """Test prompts that ask two things about one input, for each ordered pair of tasks with the same inputs."""
    rng = Random(f"{seed}/pairs")
    return [_pair(first, second, rng) for first, second in _neighbours(tasks) for _ in range(num_prompts)]


def pair_prompt(first: Task, second: Task, wording: int, item: Item, rng: Random, before: str = "") -> str:
    """Both instructions, the second one in a few words."""
    return f"{first.prompt(wording, item, before).rstrip('?.')}{rng.choice(JOINERS)}{second.ask(item)}"


def _neighbours(tasks: Sequence[Task]) -> Iterator[tuple[Task, Task]]:
    domains: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        domains.setdefault((task.family, task.domain), []).append(task)
    for group in domains.values():
        # Two of them, one in each order of a rotation: every task is first once and second once.
        yield from zip(group, group[1:] + group[:1], strict=True) if len(group) > 1 else ()


def _pair(first: Task, second: Task, rng: Random) -> PairPrompt:
    item = draw_item(first, rng, Split.TEST)
    prompt = pair_prompt(first, second, rng.randrange(HELD_OUT_WORDING), item, rng, some_chatter(rng, TRAIN_CHATTER))
    order = list(Split)
    later = max(first.split, second.split, key=order.index)
    return PairPrompt((first.name, second.name), later, prompt, (first.answer(item), second.answer(item)))


def _example(task: Task, wording: int, item: Item, before: str) -> Example:
    return Example(task.prompt(wording, item, before), task.answer(item))


def _training_example(task: Task, rng: Random, item: Item) -> Example:
    return _example(task, rng.randrange(HELD_OUT_WORDING), item, some_chatter(rng, TRAIN_CHATTER))


def _distinct(task: Task, rng: Random, part: Split, count: int) -> list[Item]:
    items: dict[str, Item] = {}
    for _ in range(MAX_DRAWS):
        item = draw_item(task, rng, part)
        items.setdefault(item.text, item)
        if len(items) == count:
            return list(items.values())
    raise ValueError(f"task {task.name} has only {len(items)} different inputs")
