"""How tokens are chosen from logits."""

from __future__ import annotations

from dataclasses import dataclass

from ramole.core.errors import InvalidInput

MAX_NEW_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding parameters of one request. Decoding is greedy; `stop` cuts the text before the first match."""

    max_tokens: int = 64
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= MAX_NEW_TOKENS:
            raise InvalidInput(
                f"{self.max_tokens} tokens asked for",
                field="sampling.max_tokens",
                remedy=f"use 1 to {MAX_NEW_TOKENS}",
            )
        if len(self.stop) > 8 or any(not s or len(s) > 64 for s in self.stop):
            raise InvalidInput(
                "bad stop strings", field="sampling.stop", remedy="give at most 8, each of 1 to 64 characters"
            )
