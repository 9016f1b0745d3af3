"""What HTTP clients read: OpenAI's objects, whole or as server-sent events, with our report under ``ramole``."""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ramole.v1.common_pb2 import TokenChunk, TopTokens

DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` makes a new encoder each time


def as_bytes(data: Any) -> bytes:
    """JSON on the wire."""
    return _encode(data).encode()


def event(data: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + as_bytes(data) + b"\n\n"


def _text_reader() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("ignore")


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token of an answer.

    Attributes:
        said: its bytes, of a part of a character perhaps.
        offset: where it begins in the answer, in characters.
        top: the likeliest tokens in its place.
    """

    said: bytes
    logprob: float
    offset: int
    top: dict[bytes, float]


@dataclass(slots=True)
class GrowingChoice:
    """One answer as it grows.

    Attributes:
        index: of the answer in the call: prompt-major, `n` answers to each prompt.
        finish_reason: ``stop`` or ``length``; empty while it runs.
        report: our own report on the answer, see `reports`.
    """

    index: int
    text: str = ""
    tokens: list[TokenScore] = field(default_factory=list)
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    report: Json = field(default_factory=dict)
    _reader: codecs.IncrementalDecoder = field(default_factory=_text_reader)
    _num_read: int = 0

    def push(self, chunk: TokenChunk) -> GrowingChoice:
        """Adds a piece, and gives it as an answer of its own."""
        scores: list[TokenScore] = []
        for i, logprob in enumerate(chunk.logprobs):
            said = chunk.token_bytes[i] if chunk.token_bytes else b""  # an executor before an update tells none
            top = chunk.top_tokens[i] if chunk.top_tokens else TopTokens()
            likeliest = dict(zip(top.token_bytes, top.logprobs, strict=True))
            scores.append(TokenScore(said, logprob, self._num_read, likeliest))
            self._num_read += len(self._reader.decode(said))
        self.text += chunk.text
        self.tokens += scores
        return GrowingChoice(self.index, chunk.text, scores)


@dataclass(frozen=True, slots=True)
class AnswerWriter(ABC):
    """Writes the answers of one call.

    Args:
        id: of the call; its request id.
        created: seconds since the epoch.
        model: what the client asked for.
        has_logprobs: whether the client asked for the tokens' log probabilities.
    """

    id: str
    created: int
    model: str
    has_logprobs: bool = False

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, choices: Sequence[GrowingChoice]) -> Json:
        """The body of an answer that is not streamed."""
        body = self._head(self.whole_object) | {"choices": [self._whole(choice) for choice in choices]}
        return body | {"usage": usage_of(choices), "ramole": [choice.report for choice in choices]}

    def opening(self, index: int) -> Json | None:
        """What comes before the first piece of an answer, if anything."""
        return None

    def routed(self, index: int, report: Json) -> Json:
        """Before each part of an answer that is re-routed: what it will use."""
        return self.piece(index, GrowingChoice(index)) | {"ramole": {"routing": report}}

    def piece(self, index: int, piece: GrowingChoice) -> Json:
        """One piece of a streamed answer."""
        return self._chunk(self._piece(index, piece))

    def end(self, choice: GrowingChoice) -> Json:
        """The last event of one answer, with its report."""
        return self._chunk(self._end(choice)) | {"ramole": choice.report}

    def total(self, choices: Sequence[GrowingChoice]) -> Json:
        """The event that `stream_options.include_usage` asks for."""
        return self._head(self.chunk_object) | {"choices": [], "usage": usage_of(choices)}

    def _chunk(self, choice: Json) -> Json:
        return self._head(self.chunk_object) | {"choices": [choice]}

    def _head(self, kind: str) -> Json:
        return {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    @abstractmethod
    def _whole(self, choice: GrowingChoice) -> Json: ...

    @abstractmethod
    def _piece(self, index: int, piece: GrowingChoice) -> Json: ...

    @abstractmethod
    def _end(self, choice: GrowingChoice) -> Json: ...


class CompletionWriter(AnswerWriter):
    """``text_completion``."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def _whole(self, choice: GrowingChoice) -> Json:
        return self._choice(choice.index, choice.text, self._logprobs(choice), choice.finish_reason)

    def _piece(self, index: int, piece: GrowingChoice) -> Json:
        return self._choice(index, piece.text, self._logprobs(piece), None)

    def _end(self, choice: GrowingChoice) -> Json:
        return self._choice(choice.index, "", None, choice.finish_reason)

    @staticmethod
    def _choice(index: int, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, choice: GrowingChoice) -> Json | None:
        if not self.has_logprobs:
            return None
        tokens = choice.tokens
        return {
            "tokens": [_shown(token.said) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{_shown(said): logprob for said, logprob in token.top.items()} for token in tokens]
            if any(token.top for token in tokens)
            else None,
            "text_offset": [token.offset for token in tokens],
        }


class ChatWriter(AnswerWriter):
    """``chat.completion``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, index: int) -> Json:
        """Whose turn it is."""
        return self._chunk(self._delta(index, {"role": "assistant", "content": ""}, None, None))

    def _whole(self, choice: GrowingChoice) -> Json:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish_reason,
        }

    def _piece(self, index: int, piece: GrowingChoice) -> Json:
        return self._delta(index, {"content": piece.text}, self._logprobs(piece), None)

    def _end(self, choice: GrowingChoice) -> Json:
        return self._delta(choice.index, {}, None, choice.finish_reason)

    @staticmethod
    def _delta(index: int, delta: Json, logprobs: Json | None, finish_reason: str | None) -> Json:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, choice: GrowingChoice) -> Json | None:
        if not self.has_logprobs:
            return None
        content: list[Json] = [
            _scored(token.said, token.logprob) | {"top_logprobs": [_scored(*each) for each in token.top.items()]}
            for token in choice.tokens
        ]
        return {"content": content, "refusal": None}


def _scored(said: bytes, logprob: float) -> Json:
    return {"token": _shown(said), "logprob": logprob, "bytes": list(said)}


def _shown(said: bytes) -> str:
    """A token as text; parts of characters as ``bytes:\\xe2\\x82``, as OpenAI writes them."""
    try:
        return said.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in said)


def usage_of(choices: Sequence[GrowingChoice]) -> Json:
    """Tokens of the whole call; a prompt with several answers counts for each."""
    prompt, completion = (
        sum(choice.prompt_tokens for choice in choices),
        sum(choice.completion_tokens for choice in choices),
    )
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
