"""Chooses tokens from logits: greedy for most, transformers' own processors for those who ask for more."""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Any

import torch

from ramole.core.sampling import Sampling
from ramole.executor.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Choice:
    """One chosen token, with its log probability under the unmodified model when that was asked for."""

    token: int
    logprob: float | None = None


class Sampler:
    """The random state of one sequence. Its numbers depend on its seed alone, never on the batch."""

    def __init__(self, sampling: Sampling, seed: int, device: torch.device) -> None:
        from transformers import generation

        self._generator = torch.Generator(device).manual_seed(seed % 2**63)
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
        return int(torch.multinomial(torch.softmax(scores[0], -1), 1, generator=self._generator))


def make_sampler(sampling: Sampling, device: torch.device) -> Sampler | None:
    """The random state that `sampling` asks for, with a random seed if it names none; None = plain greedy decoding."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1:
        return None
    return Sampler(sampling, secrets.randbits(63) if sampling.seed is None else sampling.seed, device)


def choose_tokens(logits: torch.Tensor, sequences: Ordered[Sequence]) -> list[Choice]:
    """The next token of each sequence, from logits [b, V]."""
    tokens = logits.argmax(-1).tolist()
    for i, sequence in enumerate(sequences):
        if isinstance(sequence.sampler, Sampler):
            tokens[i] = sequence.sampler.choose(logits[i], [*sequence.prompt, *sequence.tokens])
    logprobs: dict[int, float] = {}
    if wanted := [i for i, sequence in enumerate(sequences) if sequence.wants_logprobs]:
        rows = torch.log_softmax(logits[wanted].float(), -1)
        chosen = rows.gather(-1, torch.tensor([[tokens[i]] for i in wanted], device=logits.device))
        logprobs = dict(zip(wanted, chosen[:, 0].tolist(), strict=True))
    return [Choice(token, logprobs.get(i)) for i, token in enumerate(tokens)]
