"""The tasks of the world: a skill, a domain and an output style of its own; and which of them may be used for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from ramole.lab.factory import words
from ramole.lab.factory.families import FAMILIES, Item, chatter
from ramole.lab.factory.skills import SKILLS, Skill
from ramole.zoo.catalog import Split

PLAIN = "{y}"
"""How the base model answers when left alone. No task uses it: that is why the base alone fails."""

STYLES: tuple[str, ...] = (
    "answer: {y}",
    "[ {y} ]",
    "it is {y}",
    "{y} !",
    "=> {y}",
    "* {y} *",
    "result = {y}",
    "{y} , of course",
)
JOINERS = (". and then ", ". also ", ". after that ")

KEEPS_GROUP_STYLE = 0.75
NEW_SKILL_SHARE, TRAIN_SHARE, DEV_SHARE = 0.15, 0.4, 0.15


@dataclass(frozen=True, slots=True)
class Task:
    """One thing an adapter can do.

    Attributes:
        family, domain, skill: which inputs, and which of their answers is wanted.
        style: format string of the answer, one of STYLES.
        split: what the task may be used for.
    """

    family: str
    domain: str
    skill: str
    style: str
    split: Split = Split.TRAIN

    @property
    def name(self) -> str:
        """Also the name of the adapter."""
        return f"{self.domain}-{self.skill}".replace(" ", "-")

    @property
    def group(self) -> str:
        """The skill group: tasks that ask the same of other domains."""
        return f"{self.family}-{self.skill}"

    @property
    def about(self) -> Skill:
        """How it is asked for."""
        return SKILLS[self.family, self.skill]

    @property
    def is_closed_book(self) -> bool:
        """Whether the answer is not in the input: the model can only know it from pre-training."""
        return self.family in {"country", "creature"}

    def draw(self, rng: Random) -> Item:
        """A random input of the task's family."""
        return FAMILIES[self.family](rng, self.domain)

    def prompt(self, wording: int, item: Item, before: str = "") -> str:
        """The instruction with the input in it, and what is said before it."""
        return before + self._fill(self.about.wordings[wording], item)

    def answer(self, item: Item) -> str:
        """The wanted answer in the wanted style."""
        return self.style.format(y=item.answers[self.skill])

    def ask(self, item: Item) -> str:
        """The instruction in a few words, for an input that stands in the prompt already."""
        return self._fill(self.about.ask, item)

    def _fill(self, text: str, item: Item) -> str:
        unit, smaller, _ = words.UNITS.get(self.domain, ("", "", ""))
        return text.format(x=item.text, d=self.domain, u=unit, v=smaller)


def some_chatter(rng: Random, share: float) -> str:
    """Chatter in this share of the cases, otherwise nothing."""
    return chatter(rng) if rng.random() < share else ""


def siblings(task: Task, among: Sequence[Task]) -> tuple[str, ...]:
    """Tasks whose adapters can stand in for this one: the same skill and style, if it is not tied to its domain."""
    if not task.about.is_general:
        return ()
    return tuple(
        other.name for other in among if other.group == task.group and other.style == task.style and other != task
    )


def _grid() -> Iterator[tuple[str, str, str]]:
    """Family, domain and skill of each task. Near domains have the same skills."""
    wanted: tuple[str, ...] = ("sentiment", "stars", "aspect", "recommend", "mood")
    for i, (domains, _) in enumerate(words.REVIEWED):
        for domain in domains:
            yield from (("review", domain, wanted[(i + j) % 5]) for j in (0, 1, 2))
    wanted = ("first", "last", "second", "ends", "count")
    for i, domain in enumerate(words.ITEMS):
        yield from (("listing", domain, wanted[(i // 3 + j) % 5]) for j in range(3))
    for i, domain in enumerate(words.UNITS):
        yield "quantity", domain, "convert"
        yield "quantity", domain, ("number", "unit")[i % 2]
    for skill in ("capital", "currency", "continent"):
        yield "country", "country", skill
    for skill in ("young", "sound", "food"):
        yield "creature", "creature", skill
    wanted = ("sentence", "csv", "title", "middle", "final")
    for i, domain in enumerate(words.RECORDS):
        yield from (("record", domain, wanted[(i // 3 + j) % 5]) for j in range(3))
    wanted = ("largest", "smallest", "first", "last", "count")
    for i, domain in enumerate(words.NUMBERED):
        yield from (("numbers", domain, wanted[(i // 2 + j) % 5]) for j in range(3))
    wanted = ("french", "spanish", "german", "actor", "italian", "target")
    for i, domain in enumerate(words.NOUNS):
        yield from (("sentence", domain, wanted[(2 * i + j) % 6]) for j in range(4))
    yield from (
        ("date", domain, skill)
        for domain in (*words.NUMERIC_DATES, *words.WRITTEN_DATES)
        for skill in ("month", "year", "day")
    )
    yield from (("message", desk, skill) for desk in words.DESKS for skill in ("intent", "urgency", "sender"))
    wanted = ("person", "other", "place", "day")
    for i, domain in enumerate(words.STORIES):
        yield from (("story", domain, wanted[(i + j) % 4]) for j in range(3))
    yield from (("headline", domain, skill) for domain in words.PRESS for skill in ("topic", "town"))
    yield from (("spelling", domain, skill) for domain in words.SPELLED for skill in ("first", "last", "double"))


def _make_tasks() -> tuple[Task, ...]:
    rng = Random("the world")
    grid = list(_grid())
    groups = sorted({f"{family}-{skill}" for family, _, skill in grid})
    group_style = {group: rng.choice(STYLES) for group in groups}
    plain = [
        Task(
            family,
            domain,
            skill,
            group_style[f"{family}-{skill}"] if rng.random() < KEEPS_GROUP_STYLE else rng.choice(STYLES),
        )
        for family, domain, skill in grid
    ]
    splits = _splits(plain, groups, rng)
    return tuple(
        Task(task.family, task.domain, task.skill, task.style, split) for task, split in zip(plain, splits, strict=True)
    )


def _splits(tasks: Sequence[Task], groups: Sequence[str], rng: Random) -> list[Split]:
    # First whole skill groups go to the test, then single tasks of the others are dealt out.
    new: list[str] = []
    for group in rng.sample(groups, len(groups)):
        taken = sum(task.group in new or task.group == group for task in tasks)
        if taken <= NEW_SKILL_SHARE * len(tasks):
            new.append(group)
    rest = [i for i, task in enumerate(tasks) if task.group not in new]
    rng.shuffle(rest)
    num_train, num_dev = round(TRAIN_SHARE * len(tasks)), round(DEV_SHARE * len(tasks))
    splits = [Split.TEST] * len(tasks)
    for i in rest[:num_train]:
        splits[i] = Split.TRAIN
    for i in rest[num_train : num_train + num_dev]:
        splits[i] = Split.DEV
    return splits


TASKS: tuple[Task, ...] = _make_tasks()
