"""Chooses tokens from logits: greedy for most, transformers' own processors for those who ask for more."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch

from ramole.core.answer import TopTokens
from ramole.core.errors import Internal, InvalidInput, RamoleError
from ramole.core.sampling import Sampling
from ramole.executor.sequence import Sequence


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One chosen token; its log probability under the unmodified model, and the likeliest tokens with theirs, when
    they were asked for."""

    token: int
    logprob: float | None = None
    top: TopTokens | None = None


class Sampler:
    """The random numbers of one sequence. They depend on its seed and the place of the token alone: not on the batch,
    nor on where the sequence began to be computed."""

    def __init__(self, sampling: Sampling, seed: int, device: torch.device) -> None:
        from transformers import generation

        self._seed = seed % 2**64
        self._generator = torch.Generator(device)
        self._is_greedy = sampling.temperature == 0
        self._processors: list[Any] = []
        if sampling.repetition_penalty != 1:
            self._processors.append(generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if self._is_greedy:
            return
        self._processors.append(generation.TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self._processors.append(generation.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._processors.append(generation.TopPLogitsWarper(sampling.top_p))
        if sampling.min_p > 0:
            self._processors.append(generation.MinPLogitsWarper(sampling.min_p))

    def choose(self, logits: torch.Tensor, context: Ordered[int]) -> int:
        """The next token from logits [V] and all tokens so far."""
        scores = logits.float()[None]
        ids = torch.tensor([list(context)], device=logits.device)
        for processor in self._processors:
            scores = processor(ids, scores)
        if self._is_greedy:
            return int(scores.argmax())
        self._generator.manual_seed(_mixed(self._seed, len(context)))
        return int(torch.multinomial(torch.softmax(scores[0], -1), 1, generator=self._generator))


def _mixed(seed: int, place: int) -> int:
    """One seed of 63 bits from two numbers. Torch reads the lower 32 on a CPU, so all of them must depend on both."""
    data = seed.to_bytes(8, "little") + place.to_bytes(8, "little")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1


def make_sampler(sampling: Sampling, device: torch.device) -> Sampler | None:
    """The random state that `sampling` asks for, with a random seed if it names none; None = plain greedy decoding."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1:
        return None
    return Sampler(sampling, secrets.randbits(63) if sampling.seed is None else sampling.seed, device)


def choose_tokens(logits: torch.Tensor, sequences: Ordered[Sequence]) -> list[SampledToken | RamoleError]:
    """The next token of each sequence from logits [b, V], or why it alone has none."""
    best, greedy = logits.max(-1)
    tokens: list[int | RamoleError] = greedy.tolist()
    for i, (sequence, top) in enumerate(zip(sequences, best.tolist(), strict=True)):
        if not math.isfinite(top):  # the largest of a row that holds a NaN is NaN
            tokens[i] = _not_finite(sequence)
        elif isinstance(sequence.sampler, Sampler):
            try:
                tokens[i] = sequence.sampler.choose(logits[i], [*sequence.prompt, *sequence.tokens])
            except Exception as error:
                tokens[i] = Internal("no token could be chosen", field="sampling").because(error)
    scored: dict[int, SampledToken] = {}
    wanted = [i for i, token in enumerate(tokens) if sequences[i].wants_logprobs and isinstance(token, int)]
    try:
        scored = _scored(logits, wanted, tokens, [sequences[i].num_top for i in wanted])
    except Exception as error:
        for i in wanted:
            tokens[i] = Internal("no log probability could be worked out").because(error)
    return [
        token if isinstance(token, RamoleError) else scored.get(i) or SampledToken(token)
        for i, token in enumerate(tokens)
    ]


def _scored(
    logits: torch.Tensor, rows: Ordered[int], tokens: Ordered[Any], num_top: Ordered[int]
) -> dict[int, SampledToken]:
    """The chosen tokens of some rows with log probabilities, beside those of `num_top` likeliest ones of each row."""
    if not rows:
        return {}
    scores = torch.log_softmax(logits[rows].float(), -1)
    chosen = scores.gather(-1, torch.tensor([[tokens[row]] for row in rows], device=logits.device))[:, 0].tolist()
    likeliest: list[TopTokens | None] = [None] * len(rows)
    if most := min(max(num_top), scores.shape[-1]):
        values, ids = (part.tolist() for part in scores.topk(most, -1))
        likeliest = [
            TopTokens(tuple(ids[i][:count]), tuple(values[i][:count])) if count else None
            for i, count in enumerate(num_top)
        ]
    return {row: SampledToken(tokens[row], chosen[i], likeliest[i]) for i, row in enumerate(rows)}


def _not_finite(sequence: Sequence) -> RamoleError:
    if not sequence.experts:
        return Internal("the base model's numbers overflow for this prompt", field="prompt")
    return InvalidInput(
        "the numbers of this mixture overflow",
        field="composition",
        remedy="use smaller weights and scales, or other adapters",
    )
