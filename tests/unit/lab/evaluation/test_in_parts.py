"""Answers in parts as the evaluation judges them, beside what the engine decodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ramole.core.composition import PRESETS
from ramole.lab.evaluation.evaluate import QUICK, Bench
from ramole.lab.evaluation.in_parts import InParts, ends_of_parts, vocabulary_of
from ramole.lab.evaluation.subject import Subject, TwoSkill, zoo_subject
from ramole.lab.memory_index import MemoryIndex
from ramole.lab.training.lm import Encoded
from ramole.zoo.catalog import Zoo

ALONE = PRESETS["selection"]


@pytest.fixture(scope="module")
def bench(zoo: Zoo) -> Bench:
    subject = zoo_subject(zoo)
    pairs = subject.two_skill[::12]
    names = {i for pair in pairs for i in pair.adapters}
    order = sorted(names)
    entries = tuple(subject.entries[i] for i in order)
    two = tuple(TwoSkill(pair.example, tuple(map(order.index, pair.adapters))) for pair in pairs)  # type: ignore[arg-type]
    return Bench.load(Subject("some", subject.base, entries, two, subject.routers), QUICK)


def in_parts(bench: Bench, means: np.ndarray, embed: Any) -> InParts:
    pairs = bench.subject.two_skill
    index = MemoryIndex(embed, (), means)
    questions = range(bench.num_tests, bench.num_tests + len(pairs))
    prompts = [pair.example.prompt for pair in pairs]
    vocabulary = vocabulary_of(bench.subject.base)
    return InParts(bench.methods.answerer, questions, prompts, index, vocabulary, None, (";",))


def test_one_who_knows_reaches_the_bound_and_who_is_named_and_begins_too(bench: Bench) -> None:
    pairs = bench.subject.two_skill
    num = len(bench.subject.entries)
    owners = {pair.example.prompt: pair.adapters for pair in pairs}
    asked: list[list[int]] = []

    def oracle(texts: list[str], answers: Any = ()) -> np.ndarray:
        asked.append([len(answer) for answer in answers])
        return np.eye(num, dtype=np.float32)[[owners[text][bool(answers)] for text in texts]]

    these = in_parts(bench, np.eye(num, dtype=np.float32), oracle)
    bound = these.bound([pair.adapters for pair in pairs], ALONE)
    found = these.rerouted(ALONE)
    assert found.right.tolist() == bound.right.tolist()
    assert found.nll == pytest.approx(bound.nll)
    assert asked[0] == []
    assert min(asked[1]) >= 1, "behind the first part"
    assert bound.right.sum() > 0
    named = these.rerouted(ALONE, named=[pair.adapters[::-1] for pair in pairs])
    assert named.right.tolist() == bound.right.tolist()
    whole = bench.methods.answerer.outcomes(list(these.questions), these_alone(pairs))
    assert bound.nll.mean() < whole.nll.mean()


def these_alone(pairs: Any) -> list[Any]:
    from ramole.lab.evaluation.views import request

    return [request(ALONE, [pair.adapters[0]]) for pair in pairs]


def test_of_one_part_it_is_the_whole_answer(bench: Bench) -> None:
    num = len(bench.subject.entries)
    eye = np.eye(num, dtype=np.float32)
    these = in_parts(bench, eye, lambda texts: eye[[0] * len(texts)])
    answerer = bench.methods.answerer
    plans = [[(0, each)] for each in these_alone(bench.subject.two_skill)]
    whole = answerer.outcomes(list(these.questions), [plan[0][1] for plan in plans])
    found = these.outcomes(plans)
    assert found.right.tolist() == whole.right.tolist()
    assert found.nll == pytest.approx(whole.nll, abs=1e-4)


def test_a_separator_at_the_end_begins_no_part(bench: Bench) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.subject.base)
    vocabulary = vocabulary_of(bench.subject.base)
    for text, parts in (("one star ; two", 1), ("one star", 0), ("a ; b ; c", 2), ("a ;", 1)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ended, open_ = Encoded((1, *ids, tokenizer.eos_token_id), 1), Encoded((1, *ids), 1)
        assert len(ends_of_parts(ended, vocabulary, (";",))) == parts
        assert len(ends_of_parts(open_, vocabulary, (";",))) == parts - text.endswith(";")
