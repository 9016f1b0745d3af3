"""Sampling: reproducible in any batch, equal to transformers' own processors, greedy where greedy was asked for."""

from __future__ import annotations

import math

import pytest
import torch

from ramole.core.composition import Expert
from ramole.core.errors import InvalidInput
from ramole.core.sampling import Sampling
from ramole.executor.sampler import SampledToken, Sampler, choose_tokens
from ramole.executor.sequence import Sequence
from support.engine_world import make_world, tiny_llama

CPU = torch.device("cpu")


def sampled(id_: str, sampling: Sampling, seed: int = 5) -> Sequence:
    sampler = Sampler(sampling, seed, CPU)
    return Sequence(id_, [5, 6, 7], 12, (Expert("a1"), Expert("a2")), sampler=sampler, wants_logprobs=True)


def test_the_same_seed_gives_the_same_answer_whatever_runs_beside_it() -> None:
    sampling = Sampling(temperature=1.3, top_k=20, top_p=0.9)
    alone = sampled("s", sampling)
    make_world().run(alone)
    crowd = [Sequence(str(i), [i + 3] * (i + 1), 9, (Expert(f"a{i}"),)) for i in range(6)]
    among, other = sampled("s", sampling), sampled("t", sampling, seed=6)
    make_world(token_budget=9).run(*crowd, among, other)
    assert among.tokens == alone.tokens
    assert other.tokens != alone.tokens


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=3),
        Sampling(temperature=0.7, top_p=0.5),
        Sampling(temperature=2.0, min_p=0.3),
        Sampling(temperature=1.0, repetition_penalty=1.8),
    ],
)
def test_frequencies_follow_transformers_own_processors(sampling: Sampling) -> None:
    from transformers import generation

    torch.manual_seed(0)
    logits, context = torch.randn(30) * 2, [1, 2, 3, 4]
    scores = logits[None].clone()
    ids = torch.tensor([context])
    if sampling.repetition_penalty != 1:
        scores = generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    scores = generation.TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = generation.TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = generation.TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p:
        scores = generation.MinPLogitsWarper(sampling.min_p)(ids, scores)
    want = scores.softmax(-1)[0]
    draws = torch.tensor([Sampler(sampling, seed, CPU).choose(logits, context) for seed in range(3000)])
    got = torch.bincount(draws, minlength=30) / 3000
    assert (got[want == 0] == 0).all()
    assert (got - want).abs().max() < 0.04


def test_logprobs_are_those_of_the_model() -> None:
    world = make_world()
    sequence = Sequence("x", [5, 6, 7], 6, wants_logprobs=True)
    got = [update.sampled and update.sampled.logprob for update in world.run(sequence)]
    with torch.no_grad():
        rows = tiny_llama()(torch.tensor([[5, 6, 7, *sequence.tokens]])).logits[0].log_softmax(-1)
    want = [float(rows[2 + i, token]) for i, token in enumerate(sequence.tokens)]
    assert got == pytest.approx(want, abs=1e-4)


def test_each_gets_as_many_of_the_likeliest_as_it_asked_for() -> None:
    world = make_world()
    asked = {"none": 0, "one": 1, "five": 5, "all": 20}
    sequences = {id_: Sequence(id_, [5, 6, 7], 4, wants_logprobs=True, num_top=n) for id_, n in asked.items()}
    tops = {id_: [u.sampled.top for u in world.run(sequence) if u.sampled] for id_, sequence in sequences.items()}
    assert set(tops["none"]) == {None}
    for id_, sequence in sequences.items():
        with torch.no_grad():
            rows = tiny_llama()(torch.tensor([[5, 6, 7, *sequence.tokens]])).logits[0].log_softmax(-1)
        for i, top in enumerate(tops[id_]):
            if top is None:
                continue
            values, ids = rows[2 + i].topk(min(asked[id_], rows.shape[-1]))
            assert list(top.token_ids) == ids.tolist()
            assert list(top.logprobs) == pytest.approx(values.tolist(), abs=1e-4)


def test_rows_of_one_batch_are_scored_apart() -> None:
    logits = torch.randn(3, 30)
    sequences = [Sequence("a", [1], 1), Sequence("b", [1], 1, wants_logprobs=True), Sequence("c", [1], 1)]
    sequences[2].wants_logprobs, sequences[2].num_top = True, 3
    plain, scored, topped = choose_tokens(logits, sequences)
    assert isinstance(plain, SampledToken)
    assert isinstance(scored, SampledToken)
    assert isinstance(topped, SampledToken)
    assert (plain.logprob, plain.top, scored.top) == (None, None, None)
    assert topped.top is not None
    assert (topped.top.token_ids[0], topped.top.logprobs[0]) == (topped.token, topped.logprob)
    assert len(topped.top.token_ids) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", math.nan), ("top_p", 0.0), ("top_p", 1.1), ("min_p", 1.0), ("seed", -1),
     ("repetition_penalty", 0.0), ("max_tokens", 0), ("top_k", -1), ("stop", ("",))],
)  # fmt: skip
def test_out_of_range_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert raised.value.field == f"sampling.{field}"
    assert raised.value.remedy
