"""State: one request inside the engine. Token ids and numbers, no tensors and no text."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ramole.core.answer import FinishReason
from ramole.core.composition import Composition, Expert
from ramole.executor.prefix import PrefixChain
from ramole.mixture.plan import RequestMixture


@dataclass(slots=True)
class States:
    """Hidden states [layers, d] of a prompt: of its last token so far, and sums over chunks by where they begin.

    The first token is in no sum, unless it is the only one.
    """

    last: npt.NDArray[np.float32]
    sums: dict[int, npt.NDArray[np.float32]]

    def mean(self, num_tokens: int) -> npt.NDArray[np.float32]:
        """Over all tokens but the first, [layers, d]."""
        total: npt.NDArray[np.float32] = np.sum(list(self.sums.values()), axis=0, dtype=np.float32)
        return total / np.float32(max(1, num_tokens - 1))


@dataclass(slots=True, eq=False)
class Sequence:
    """One request from arrival to its last token.

    Set by the caller: `id`, `prompt`, `max_tokens` (0 = as many as fit), `experts`, `composition`, `arrived_s` (any
    monotonic clock), `sampler` (None = greedy; opaque here, see sampler.py), `wants_logprobs`, `num_top` (log
    probabilities of how many likeliest tokens beside), `tenant` (who shares), `num_answered` (how many of the last
    tokens of `prompt` are of the answer, which goes on), `layers` (whose outputs are wanted of its prompt, from 1).
    Set by the scheduler: `blocks` (its block table: none while it does not run), `mixture` (None while it holds no
    slots), `turn` (when it was first admitted, beside others), `skipped` (how often a later arrival was admitted before
    this one), `num_preempted` (how often it gave its blocks to an older one), `chain` (see prefix.py).
    Set by the engine: `tokens`, `num_cached` (of its tokens, whose keys and values are in the blocks), `num_computed`
    (the most that these have been), `finish_reason`, times, usage and `states`; `placed` (digest, start and end of each
    write into a slot that it waited for, on the clock of `arrived_s`).
    """

    id: str
    prompt: Ordered[int]
    max_tokens: int
    experts: tuple[Expert, ...] = ()
    composition: Composition = field(default_factory=Composition)
    arrived_s: float = 0.0
    sampler: object | None = None
    wants_logprobs: bool = False
    num_top: int = 0
    tenant: str = ""
    num_answered: int = 0
    layers: tuple[int, ...] = ()

    blocks: list[int] = field(default_factory=list)
    mixture: RequestMixture | None = None
    turn: int | None = None
    skipped: int = 0
    num_preempted: int = 0
    chain: PrefixChain | None = None

    tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    num_computed: int = 0
    finish_reason: FinishReason | None = None
    admitted_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    placed: list[tuple[str, float, float]] = field(default_factory=list)
    max_batch: int = 0
    max_unique_adapters: int = 0
    usage_weights: npt.NDArray[np.float64] | None = None
    usage_counts: npt.NDArray[np.float64] | None = None
    states: States | None = None

    @property
    def goes_first(self) -> bool:
        """Whether it waits in front of its tenant's others: somebody reads it already, or cannot ask before."""
        return bool(self.num_answered or self.layers)

    @property
    def digests(self) -> tuple[str, ...]:
        """Unique digests of the experts, in their order."""
        return tuple(dict.fromkeys(expert.digest for expert in self.experts))

    @property
    def num_tokens(self) -> int:
        """Prompt and generated tokens."""
        return len(self.prompt) + len(self.tokens)

    @property
    def max_length(self) -> int:
        """Tokens that it may come to."""
        return len(self.prompt) + self.max_tokens

    @property
    def num_missing(self) -> int:
        """Tokens whose keys and values are not in the blocks; the next step needs them all to choose a token."""
        return self.num_tokens - self.num_cached

    @property
    def is_prefilled(self) -> bool:
        """Whether only its newest token is missing: each step gives it another."""
        return bool(self.tokens) and self.num_missing == 1

    @property
    def is_computed_again(self) -> bool:
        """Whether its next token has been computed before: its keys and values are made anew, nothing else of it."""
        return self.num_cached < self.num_computed

    @property
    def is_finished(self) -> bool:
        """Whether it needs no more steps."""
        return self.finish_reason is not None

    def next_tokens(self, limit: int) -> Ordered[int]:
        """The first `limit` of the tokens that are missing."""
        return self.tokens_between(self.num_cached, self.num_cached + limit)

    def tokens_between(self, start: int, stop: int) -> Ordered[int]:
        """Of prompt and answer as one."""
        n = len(self.prompt)
        if start >= n:
            return self.tokens[start - n : stop - n]
        return [*self.prompt[start:stop], *self.tokens[: max(0, stop - n)]]

    def add_usage(self, weights: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> None:
        """Adds the expert weights of one step: sums [L, k] and the number of terms behind them [L]."""
        weights = weights[:, : len(self.experts)]
        if self.usage_weights is None or self.usage_counts is None:
            self.usage_weights, self.usage_counts = weights.copy(), counts.copy()
            return
        if len(weights) != len(self.usage_weights):
            # Layers appear when an adapter first touches them: grow towards the larger of the two.
            grow = max(len(weights), len(self.usage_weights))
            self.usage_weights, weights = _grown(self.usage_weights, grow), _grown(weights, grow)
            self.usage_counts, counts = _grown(self.usage_counts, grow), _grown(counts, grow)
        self.usage_weights += weights
        self.usage_counts += counts

    def mean_weights(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean weight of each expert over all tokens and modules, [k], and by transformer layer, [L, k]."""
        k = len(self.experts)
        if self.usage_weights is None or self.usage_counts is None:
            return np.zeros(k), np.zeros((0, k))
        total = self.usage_weights.sum(0) / max(self.usage_counts.sum(), 1)
        layers = self.usage_weights / np.maximum(self.usage_counts, 1)[:, None]
        return total, layers[:-1]


def _grown(array: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    # The last entry stands for modules outside the layers and stays last.
    if len(array) == length:
        return array
    out = np.zeros((length, *array.shape[1:]))
    out[: len(array) - 1], out[-1] = array[:-1], array[-1]
    return out
