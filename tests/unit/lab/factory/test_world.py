"""The texts of the world: the same everywhere, and tests are never seen in training."""

from __future__ import annotations

from random import Random

import pytest

from ramole.lab.factory import base, splits
from ramole.lab.factory.recipes import PRESETS
from ramole.lab.factory.skills import HELD_OUT_WORDING
from ramole.lab.factory.splits import TaskData, make_pairs, part_of, split, split_all
from ramole.lab.factory.tasks import TASKS, Task, siblings
from ramole.zoo.catalog import Split


@pytest.fixture(scope="module")
def world() -> list[TaskData]:
    return split_all(TASKS, seed=0)


def test_another_seed_gives_other_texts() -> None:
    assert split(TASKS[0], seed=1).train != split(TASKS[0], seed=2).train


def test_no_two_tasks_share_a_folder() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_tasks_are_dealt_out_by_skill_group_and_then_one_by_one() -> None:
    count = {kind: sum(task.split is kind for task in TASKS) for kind in Split}
    assert count[Split.TRAIN] == round(0.4 * len(TASKS))
    assert count[Split.DEV] == round(0.15 * len(TASKS))
    known = {task.group for task in TASKS if task.split is not Split.TEST}
    test = [task for task in TASKS if task.split is Split.TEST]
    new = [task for task in test if task.group not in known]
    assert 0.1 * len(TASKS) <= len(new) <= 0.2 * len(TASKS)
    assert len(test) - len(new) >= 0.25 * len(TASKS)


def test_the_shipped_world_is_a_part_of_the_full_one() -> None:
    full, shipped = PRESETS["full"], PRESETS["shipped"]
    assert {task.split for task in shipped.tasks} == set(Split)
    assert shipped.base == full.base
    assert all(shipped.adapter(task) == full.adapter(task) for task in shipped.tasks)


def test_siblings_ask_the_same_and_answer_in_the_same_style() -> None:
    tasks = {task.name: task for task in TASKS}
    for task in TASKS:
        for name in siblings(task, TASKS):
            other = tasks[name]
            assert (other.group, other.style) == (task.group, task.style)
            assert other.domain != task.domain
            assert task.name in siblings(other, TASKS)
    assert sum(bool(siblings(task, TASKS)) for task in TASKS) >= 0.6 * len(TASKS)


def _inputs(task: Task, prompts: list[str], wordings: range) -> set[str]:
    """What stands at the place of the input in prompts without chatter."""
    found = set()
    for prompt in prompts:
        for wording in wordings:
            item = type("Item", (), {"text": "\0"})()
            before, _, after = task.prompt(wording, item).partition("\0")
            if prompt.startswith(before) and prompt.endswith(after):
                found.add(prompt[len(before) : len(prompt) - len(after)])
    return found


def test_a_test_input_is_in_no_training_text_of_any_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "some_chatter", lambda rng, share: "")
    inputs: dict[Split, set[tuple[str, str]]] = {kind: set() for kind in Split}
    for one in split_all([task for task in TASKS if not task.is_closed_book], seed=0):
        task = one.task
        parts = {Split.TRAIN: one.train, Split.DEV: one.dev, Split.TEST: one.test}
        for kind, part in parts.items():
            wordings = range(HELD_OUT_WORDING + (kind is Split.TEST))
            texts = _inputs(task, [example.prompt for example in part], wordings)
            assert len(texts) >= (8 if kind is Split.DEV else 16), (task.name, kind)
            inputs[kind] |= {(task.family, text) for text in texts}
    assert not inputs[Split.TEST] & inputs[Split.TRAIN]
    assert not inputs[Split.TEST] & inputs[Split.DEV]
    assert not inputs[Split.DEV] & inputs[Split.TRAIN]
    assert all(part_of(text) is Split.TEST for _, text in inputs[Split.TEST])


class Recorder:
    """A tokenizer that only remembers its texts."""

    eos_token_id = 2

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        self.texts.append(text)
        return {"input_ids": [1]}


def test_the_base_model_never_reads_a_test_input(world: list[TaskData]) -> None:
    tokenizer, rng = Recorder(), Random(1)
    phase = base.BaseRecipe().phases[0]
    batches = base._batches(tokenizer, TASKS, phase, 32, rng)
    for _ in range(160):
        next(batches)
    read = "\n".join(tokenizer.texts)
    # Inputs that are long enough not to be a part of another one by chance.
    long = [one.task for one in world if one.task.family in {"story", "message", "headline", "record"}]
    tests = {text for task in long for text in _many_inputs(task, Split.TEST)}
    assert len(tests) > 300
    assert not [text for text in tests if text in read]
    assert [text for task in long for text in _many_inputs(task, Split.TRAIN) if text in read]


def _many_inputs(task: Task, part: Split) -> list[str]:
    rng = Random(f"{task.name}/{part}")
    return [splits.draw_item(task, rng, part).text for _ in range(30)]


def test_one_wording_is_met_in_tests_only(world: list[TaskData]) -> None:
    for data in world:
        wording = data.task.about.wordings[HELD_OUT_WORDING]
        longest = max(wording.replace("{d}", data.task.domain).partition("{x}")[::2], key=len)
        if "{" in longest:
            continue

        def is_held_out(prompt: str, words: str = longest) -> bool:
            return words in prompt

        assert not any(is_held_out(prompt) for prompt in data.samples), data.task.name
        assert not any(is_held_out(example.prompt) for example in (*data.train, *data.dev)), data.task.name
        assert [is_held_out(example.prompt) for example in data.test] == [False, True] * 8, data.task.name


def test_sizes_and_styles(world: list[TaskData]) -> None:
    for data in world:
        assert len(data.samples) == len(set(data.samples)) == 20
        assert (len(data.dev), len(data.test)) == (8, 16)
        before, _, after = data.task.style.partition("{y}")
        for example in (*data.train[:20], *data.dev, *data.test):
            assert example.answer.startswith(before)
            assert example.answer.endswith(after)


def test_pairs_ask_two_things_about_one_input() -> None:
    tasks = {task.name: task for task in TASKS}
    pairs = make_pairs(TASKS, seed=0)
    order = list(Split)
    for pair in pairs:
        first, second = (tasks[name] for name in pair.adapters)
        assert first != second
        assert (first.family, first.domain) == (second.family, second.domain)
        assert second.about.ask.partition("{")[0] in pair.prompt
        assert order.index(pair.split) == max(order.index(first.split), order.index(second.split))
        for task, answer in zip((first, second), pair.answers, strict=True):
            before, _, after = task.style.partition("{y}")
            assert answer.startswith(before)
            assert answer.endswith(after)
        assert pair.answer == f"{pair.answers[0]} ; {pair.answers[1]}"
    assert {pair.adapters[0] for pair in pairs} == {pair.adapters[1] for pair in pairs}
    assert len(pairs) >= 400


def test_a_task_with_too_few_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="different inputs"):
        split(next(task for task in TASKS if task.family == "country"), seed=0, num_test=33)
