"""Outcomes: teacher forcing is greedy decoding, a batch is its prompts one by one, nothing is computed twice."""

from __future__ import annotations

import numpy as np
import pytest

from ramole.core.composition import PRESETS, Expert
from ramole.core.sampling import Sampling
from ramole.core.settings import ExecutorSettings
from ramole.executor.offline import OfflineEngine
from ramole.lab.evaluation import answers
from ramole.lab.evaluation.evaluate import Bench
from ramole.lab.evaluation.methods import ALONE
from ramole.lab.evaluation.subject import Subject
from ramole.lab.evaluation.views import request
from ramole.mixture.plan import RequestMixture


def test_exact_match_is_what_the_engine_generates(bench: Bench, subject: Subject) -> None:
    names = [entry.name for entry in subject.entries]
    questions = list(range(bench.num_tests))
    chosen = []
    for i, own in enumerate(bench.own.tolist()):
        second, third = (own + 1) % len(names), (own + 2) % len(names)
        chosen.append([[own], [own, second, third], [second]][i % 3])
    composition = PRESETS["mixture"]
    found = bench.methods.answerer.outcomes(questions, [request(composition, row) for row in chosen])
    experts = [[Expert(names[i]) for i in row] for row in chosen]
    with OfflineEngine(
        subject.base,
        {entry.name: entry.path for entry in subject.entries},
        settings=ExecutorSettings(router="", max_len=256),
    ) as engine:
        texts = engine.generate(bench.prompts, experts, composition=composition, sampling=Sampling(max_tokens=32))
    wanted = [test.answer for entry in subject.entries for test in entry.tests[:4]]
    assert found.right.tolist() == [text == answer for text, answer in zip(texts, wanted, strict=True)]
    assert 0 < found.right.sum() < len(wanted)


def test_a_batch_is_its_prompts_one_by_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer, n = bench.methods.answerer, bench.num_tests
    requests = [request(PRESETS["fusion"], [0, 1, 2]), request(ALONE, [3]), RequestMixture()]
    cases = [(question, requests[question % 3]) for question in range(n)]
    together = answerer.outcomes([q for q, _ in cases], [r for _, r in cases])
    answerer._known.clear()
    monkeypatch.setattr(answers, "MAX_ROWS", 1)
    alone = answerer.outcomes([q for q, _ in cases], [r for _, r in cases])
    np.testing.assert_allclose(together.nll, alone.nll, rtol=1e-4, atol=1e-5)
    assert together.right.tolist() == alone.right.tolist()


def test_the_router_in_use_is_part_of_what_is_known(bench: Bench) -> None:
    methods, answerer = bench.methods, bench.methods.answerer
    experts = request(PRESETS["ramole"], [0, 1, 2])
    seen = []
    for name, router in methods.random_routers().items():
        answerer.use_router(name, router)
        seen.append(answerer.outcomes([0], [experts]).nll[0])
    answerer.use_router("random 0", methods.random_routers()["random 0"])
    assert seen[0] != seen[1]
    assert answerer.outcomes([0], [experts]).nll[0] == seen[0]
