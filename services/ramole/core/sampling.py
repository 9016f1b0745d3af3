"""How tokens are chosen from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ramole.core.errors import InvalidInput

MAX_NEW_TOKENS = 4096
MAX_STOPS = 8
MAX_STOP_CHARS = 64
MAX_STOP_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding parameters of one request; the defaults are greedy decoding.

    Attributes:
        stop: texts; the answer is cut before the first match.
        stop_tokens: token ids that end the answer as the model's own end token does; their text is not part of it.
        temperature: 0 = greedy, whatever the other fields say except `repetition_penalty`.
        top_k: 0 = off. top_p: 1 = off. min_p: 0 = off. repetition_penalty: 1 = off.
        seed: None = a random one; the same seed gives the same answer in any batch.
        logprobs: report the log probability of each token under the unmodified model.
    """

    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: bool = False
    stop_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(1 <= self.max_tokens <= MAX_NEW_TOKENS, "max_tokens", self.max_tokens, f"use 1 to {MAX_NEW_TOKENS}")
        stops_fit = len(self.stop) <= MAX_STOPS and all(0 < len(s) <= MAX_STOP_CHARS for s in self.stop)
        _check(stops_fit, "stop", len(self.stop), f"give at most {MAX_STOPS}, of 1 to {MAX_STOP_CHARS} characters each")
        are_tokens = all(0 <= token < 2**32 for token in self.stop_tokens)
        _check(
            are_tokens and len(self.stop_tokens) <= MAX_STOP_TOKENS,
            "stop_token_ids",
            len(self.stop_tokens),
            f"give at most {MAX_STOP_TOKENS} token ids",
        )
        _check(0 <= self.temperature <= 100, "temperature", self.temperature, "use 0 (greedy) to 100")
        _check(self.top_k >= 0, "top_k", self.top_k, "use 0 (off) or more")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "use a value above 0, at most 1 (off)")
        _check(0 <= self.min_p < 1, "min_p", self.min_p, "use 0 (off) or more, below 1")
        penalty = self.repetition_penalty
        _check(0 < penalty <= 100, "repetition_penalty", penalty, "use a value above 0, at most 100; 1 is off")
        _check(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "use an unsigned 64-bit number")


def _check(is_good: bool, field: str, value: object, remedy: str) -> None:
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if not (is_good and is_finite):
        raise InvalidInput(f"{field} = {value}", field=f"sampling.{field}", remedy=remedy)
