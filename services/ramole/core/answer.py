"""What an answer consists of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why an answer ended: the model or the request said so, or there is no more room."""

    STOP = "stop"
    LENGTH = "length"


class PartEnd(StrEnum):
    """What ended a part of an answer that is not the end of the answer."""

    SEPARATOR = "separator"
    ADAPTERS = "adapters"
    """They would have ended the answer."""
    TOKENS = "tokens"
    """As many as were asked for; between services only."""


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely tokens in one place, the likeliest first, with their log probabilities and bytes."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    token_bytes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer.

    Attributes:
        logprobs: of each token, when the request asked for them.
        token_bytes: what each token says, then too: of a part of a character where the vocabulary has such.
        top: the most likely tokens in the place of each token, when the request asked for some.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    token_bytes: tuple[bytes, ...] = ()
    top: tuple[TopTokens, ...] = ()
