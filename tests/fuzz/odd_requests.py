"""Requests that are legal but odd, and some that are not: made from a seed, fast enough for a hundred thousand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ramole.core.bounds import COUNTS, NUMBERS, Number
from ramole.v1 import common_pb2, gateway_pb2

_TEXTS = [
    "a", " ", "\n\t", "</s>", "<s> hello", "<pad>" * 9, "\0", "\x1b[31m", "中文 🙂", "e\u0301" * 9, "\u202e", "\ufffd",
    "translate to french: the dog", "0" * 90, "the " * 60, "[/x]", ".", "\u2028", "a" * 400,
]  # fmt: skip
_STOPS = ["a", " ", "\n", "</s>", "the", "\ufffd", "e", "x" * 64, "\0"]
_OUTSIDE = [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-40]


def odd_request(r: random.Random, adapters: Sequence[str]) -> gateway_pb2.GenerateRequest:
    """A request whose numbers lie at the edges of their ranges; one in ten has one outside."""
    request = gateway_pb2.GenerateRequest(
        prompt="".join(r.choice(_TEXTS) for _ in range(r.randint(1, 3))),
        sampling=_sampling(r),
        composition=_composition(r),
        fallback=r.choice([gateway_pb2.FALLBACK_UNSPECIFIED, gateway_pb2.FALLBACK_BASE_MODEL]),
    )
    if r.random() < 0.85:  # retrieval costs more than all the rest
        for name in r.choices(adapters, k=r.randint(1, 8)):
            named = request.adapters.add(adapter=name)
            for field in ("weight", "scale"):
                if r.random() < 0.5:
                    setattr(named, field, _edge(r, NUMBERS[f"adapters.{field}"]))
    if r.random() < 0.1:
        message: Any = r.choice([request.sampling, request.composition, *request.adapters])
        fields = [f.name for f in message.DESCRIPTOR.fields if f.type == f.TYPE_FLOAT]
        setattr(message, r.choice(fields), r.choice(_OUTSIDE))
    return request


def _sampling(r: random.Random) -> common_pb2.Sampling:
    sampling = common_pb2.Sampling(max_tokens=r.choice([1, 1, 2, 2, 3, 3, 5, 5, 8, 8, 30]), logprobs=r.random() < 0.2)
    for field in ("temperature", "top_p", "min_p", "repetition_penalty"):
        if r.random() < 0.3:
            setattr(sampling, field, _edge(r, NUMBERS[f"sampling.{field}"]))
    if r.random() < 0.2:
        sampling.top_k = r.choice([1, 2, 1_000_000])
    if r.random() < 0.3:
        sampling.seed = r.choice([0, 1, 2**63, 2**64 - 1])
    if r.random() < 0.3:
        sampling.stop.extend(r.sample(_STOPS, r.randint(1, 8)))
    if r.random() < 0.1:
        count = r.randint(1, COUNTS["sampling.stop_token_ids"].high)
        sampling.stop_token_ids.extend(r.randrange(400) for _ in range(count))
    return sampling


def _composition(r: random.Random) -> common_pb2.Composition:
    composition = common_pb2.Composition(preset=r.randrange(9), weighting=r.randrange(6), merge=r.randrange(3))
    for field in ("tau", "spread", "scale"):
        if r.random() < 0.3:
            setattr(composition, field, _edge(r, NUMBERS[f"composition.{field}"]))
    if r.random() < 0.5:
        composition.k = r.choice([0, 1, 3, 8])
    if r.random() < 0.2:
        composition.reroute = r.choice([1, 2, 2, 3, 3, 3])  # type: ignore[assignment]
        composition.max_parts = r.choice([0, 0, 2, 8])
        composition.separators.extend(r.sample(_STOPS, r.randint(0, 8)))
    return composition


def _edge(r: random.Random, bound: Number) -> float:
    smallest = bound.low if bound.low > 0 else bound.tiniest
    return r.choice(
        [0.0 if bound.low <= 0 or bound.zero else bound.high, smallest, bound.high, max(bound.low, -bound.high), 1.0]
    )


def bystander(prompt: str, adapters: Sequence[str], number: int) -> gateway_pb2.GenerateRequest:
    """A request as anybody sends it, which must get the same answer whatever runs beside it."""
    sampling = common_pb2.Sampling(max_tokens=6, logprobs=True)
    if number % 3 == 2:
        sampling.temperature, sampling.seed = 0.7, number
    composition = common_pb2.Composition(
        weighting=[common_pb2.WEIGHTING_UNIFORM, common_pb2.WEIGHTING_ROUTER][number % 2],
        merge=[common_pb2.MERGE_OUTPUTS, common_pb2.MERGE_PARAMETERS][number % 5 == 4],
    )
    named = [gateway_pb2.WeightedAdapter(adapter=adapters[(number + i) % len(adapters)]) for i in range(number % 4)]
    if not named:
        composition.k = 0
    return gateway_pb2.GenerateRequest(prompt=prompt, adapters=named, composition=composition, sampling=sampling)
