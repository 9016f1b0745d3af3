"""What an answer consists of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why an answer ended: the model or the request said so, or there is no more room."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer. `logprobs` belong to the tokens, when the request asked for them."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
