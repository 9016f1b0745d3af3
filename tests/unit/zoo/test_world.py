"""The texts of the world: the same everywhere, and tests are never seen in training."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ramole.zoo.splits import HELD_OUT_WORDING, split, split_all
from ramole.zoo.tasks import PLAIN, STYLES, TASKS, Task

DIGEST_OF_WORLD = """
import hashlib
from ramole.zoo.splits import split_all
from ramole.zoo.tasks import TASKS
data = [(d.samples, d.train, d.test) for d in split_all(TASKS, seed=3)]
print(hashlib.sha256(repr(data).encode()).hexdigest())
"""


def test_texts_do_not_depend_on_the_hash_seed() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGEST_OF_WORLD],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "4242")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64


def test_another_seed_gives_other_texts() -> None:
    assert split(TASKS[0], seed=1).train != split(TASKS[0], seed=2).train


def test_the_world_is_wide_enough() -> None:
    assert len(TASKS) >= 18
    assert len({task.cluster for task in TASKS}) >= 5
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert sum(task.is_held_out for task in TASKS) == 2
    assert PLAIN not in STYLES
    assert {task.style for task in TASKS} == set(STYLES)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_test_inputs_are_in_no_training_text(task: Task) -> None:
    data = split(task, seed=0)
    assert len(data.samples) == len(set(data.samples)) == 20
    assert len(data.test) == 16
    known = set(data.samples) | {example.prompt for example in data.train}
    for text in data.test_inputs:
        rendered = {wording.format(x=text) for wording in task.wordings}
        assert not rendered & known


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_one_wording_is_met_in_tests_only(task: Task) -> None:
    data = split(task, seed=0)
    before, _, after = task.wordings[HELD_OUT_WORDING].partition("{x}")

    def is_held_out(prompt: str) -> bool:
        return prompt.startswith(before) and prompt.endswith(after)

    assert not any(is_held_out(prompt) for prompt in data.samples)
    assert not any(is_held_out(example.prompt) for example in data.train)
    assert [is_held_out(example.prompt) for example in data.test] == [False, True] * 8


def test_answers_wear_the_style_of_their_task() -> None:
    for data in split_all(TASKS, seed=0):
        before, _, after = data.task.style.partition("{y}")
        for example in (*data.train[:20], *data.test):
            assert example.answer.startswith(before)
            assert example.answer.endswith(after)


def test_a_task_with_too_few_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="different inputs"):
        split(next(task for task in TASKS if task.family == "country"), seed=0, num_test=33)
