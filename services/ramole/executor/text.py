"""Text <-> tokens. The only part of the executor that knows text."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ramole.core.answer import Chunk
from ramole.core.chat import Message
from ramole.core.errors import InvalidInput, WrongState
from ramole.core.sampling import Sampling
from ramole.executor.detokenizer import Detokenizer, Vocabulary
from ramole.lora.sources import base_arguments

if TYPE_CHECKING:
    from ramole.executor.sampler import SampledToken


class TokenIds(tuple[int, ...]):
    """A prompt as the base model's tokens."""

    __slots__ = ()


Prompt: TypeAlias = str | Ordered[Message] | TokenIds
"""What a request asks: a text, a conversation, or tokens."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of an answer a sequence is to give.

    Attributes:
        answer: tokens of the answer so far.
        separators: texts that end the part.
        ends_with_experts: whether an end token that the experts choose ends the part, and is not told.
        max_tokens: tokens after which it ends; 0 = the part has no limit of its own.
        layers: of the base model, whose states of prompt and answer so far are wanted: what is too long is cut then.
    """

    answer: tuple[int, ...] = ()
    separators: tuple[str, ...] = ()
    ends_with_experts: bool = False
    max_tokens: int = 0
    layers: tuple[int, ...] = ()


WHOLE = Part()
"""An answer from its beginning to its end."""


class TextStream:
    """Turns the tokens of one answer into text pieces, as they come.

    A piece never ends inside a character, and text that may still become a stop string is held back. Which stop string
    cuts does not depend on how the text is cut into tokens: the one that is complete first, of those the longest.
    """

    def __init__(
        self,
        text: Detokenizer,
        stop: Collection[str] = (),
        stop_tokens: Collection[int] = (),
        *,
        separators: Collection[str] = (),
        answer: Ordered[int] = (),
    ) -> None:
        """
        Args:
            separators: texts that end a part of the answer; see `is_part`.
            answer: tokens of the answer so far: they count as pushed, and their text is not told again.
        """
        self._text = text
        self._stop = tuple(stop)
        self._stop_tokens = frozenset(stop_tokens)
        self._held = ""
        self._is_stopped = False
        self._separators: tuple[str, ...] = ()
        self._tail = ""
        self._is_part = False
        for token in answer:
            self.push(token)
        self._separators = tuple(separators)
        self._num_seen = len(text.held) if separators else 0  # of what is told next: it belongs to the part before

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string is complete or a stop token came."""
        return self._is_stopped

    @property
    def is_part(self) -> bool:
        """Whether the newest token has completed a separator, all of which is of this part of the answer."""
        return self._is_part

    def push(self, token: int) -> str:
        """Takes one token, returns the text that is now certain. Sets `is_stopped` when this was the end."""
        if token in self._stop_tokens:
            text = self.flush()
            self._is_stopped = True
            return text
        piece = self._text.push(token)
        if self._separators:
            self._look(piece)
        return self._take(piece)

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        if self._is_stopped:
            return self._release(len(self._held))
        return self._take(self._text.flush()) + self._release(len(self._held))

    def _take(self, piece: str) -> str:
        self._held += piece
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self._is_stopped = True
            return self._release(min(found)[1], drop_rest=True)
        return self._release(len(self._held) - self._possible_stop())

    def _look(self, piece: str) -> None:
        """Looks for separators, also in what is not certain yet: the token that completes one ends the part."""
        self._tail += piece[self._num_seen :]
        self._num_seen = max(0, self._num_seen - len(piece))
        text = self._tail + self._text.held[self._num_seen :]
        self._is_part = any(separator in text for separator in self._separators)
        self._tail = self._tail[max(0, len(self._tail) - max(map(len, self._separators)) + 1) :]

    def _release(self, count: int, *, drop_rest: bool = False) -> str:
        text, rest = self._held[:count], self._held[count:]
        self._held = "" if drop_rest else rest
        return text

    def _possible_stop(self) -> int:
        """Length of the longest tail that begins a stop string."""
        longest = min(max((len(stop) for stop in self._stop), default=1) - 1, len(self._held))
        tails = (n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stop))
        return next(tails, 0)


class TextCodec:
    """The tokenizer of the base model."""

    def __init__(self, tokenizer: Any, eos_token_ids: Collection[int], *, parse_special_tokens: bool = False) -> None:
        """
        Args:
            tokenizer: a fast tokenizer of transformers.
            parse_special_tokens: whether `</s>` in a prompt is the control token; False = it is those four characters.
        """
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary.of(tokenizer.backend_tokenizer)
        self._parse_special_tokens = parse_special_tokens
        self.eos_token_ids = frozenset(eos_token_ids)

    @classmethod
    def load(
        cls, path: str, generation_config: Any, *, revision: str = "", parse_special_tokens: bool = False
    ) -> TextCodec:
        """Loads the tokenizer of a base model: of a folder or GGUF file, or of a hub id at a revision (empty = its
        default).

        `generation_config` names the end tokens.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(**base_arguments(path, revision))
        eos = getattr(generation_config, "eos_token_id", None)
        if eos is None:
            eos = tokenizer.eos_token_id
        eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        return cls(tokenizer, eos_ids, parse_special_tokens=parse_special_tokens)

    @property
    def has_chat_template(self) -> bool:
        """Whether the base model answers conversations."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def tokens(self, prompt: Prompt) -> Ordered[int]:
        """Token ids of whatever a request asks. Raises as the method for it."""
        if isinstance(prompt, str):
            return self.encode(prompt)
        return self.checked(prompt) if isinstance(prompt, TokenIds) else self.encode_chat(prompt)

    def checked(self, ids: TokenIds) -> TokenIds:
        """The same. Raises as `check`."""
        self.check(ids, field="prompt_token_ids")
        return ids

    def check(self, ids: Ordered[int], *, field: str) -> None:
        """Raises InvalidInput for a token that the base model does not have."""
        for index, token in enumerate(ids):
            if not self._vocabulary.has(token):
                raise InvalidInput(
                    f"the base model has no token {token}",
                    field=f"{field}[{index}]",
                    remedy="use the base model's own tokenizer",
                )

    def decode(self, ids: TokenIds) -> str:
        """Their text, without control tokens. Raises as `checked`."""
        return self._vocabulary.decode(list(self.checked(ids)))

    def chunk(self, text: str, sampled: SampledToken) -> Chunk:
        """A piece of an answer, after its newest token."""
        if sampled.logprob is None:
            return Chunk(text, (sampled.token,))
        said, top = self._vocabulary.bytes_of, sampled.top
        likeliest = () if top is None else (replace(top, token_bytes=tuple(map(said, top.token_ids))),)
        return Chunk(text, (sampled.token,), (sampled.logprob,), (said(sampled.token),), likeliest)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with what the tokenizer's own template puts around it."""
        ids: list[int] = self._tokenizer(prompt, split_special_tokens=not self._parse_special_tokens)["input_ids"]
        bos = getattr(self._tokenizer, "bos_token_id", None)
        # A prompt that begins with the token that the template puts there: it is meant once.
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def encode_chat(self, messages: Ordered[Message]) -> list[int]:
        """Token ids of a conversation in the base model's own form, ready for the next turn of the assistant.

        Raises:
            WrongState: the base model has no chat template.
            InvalidInput: its template takes no such conversation, or a message holds a control token's text: the
                template's own are control tokens, and a user could speak for somebody else.
        """
        if not self.has_chat_template:
            raise WrongState(
                "the base model has no chat template", field="messages", remedy="send a prompt, or serve a chat model"
            )
        for index, message in enumerate(() if self._parse_special_tokens else messages):
            token = next((token for token in self._tokenizer.all_special_tokens if token in message.content), None)
            if token is not None:
                raise InvalidInput(
                    f"{token!r} is a control token of the base model",
                    field=f"messages[{index}].content",
                    remedy="leave it out, or set executor.parse_special_tokens",
                )
        try:
            text = self._rendered(messages)
        except Exception as error:  # templates raise what they like
            raise InvalidInput(
                f"the base model's chat template refuses it{self._why_refused(messages)}",
                field="messages",
                remedy="change the order or the roles",
            ) from error
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _rendered(self, messages: Ordered[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    def _why_refused(self, messages: Ordered[Message]) -> str:
        """What the template says of the same turns without what was said in them, which it might quote."""
        try:
            self._rendered([Message(message.role, "x") for message in messages])
        except Exception as error:
            return f": {str(error)[:200]}"
        return ""

    def stream(self, sampling: Sampling, part: Part = WHOLE) -> TextStream:
        """A decoder for one answer, or a part of it. Raises InvalidInput for a stop token that does not exist."""
        unknown = [token for token in sampling.stop_tokens if not self._vocabulary.has(token)]
        if unknown:
            raise InvalidInput(
                f"the base model has no token {unknown[0]}", field="sampling.stop_token_ids", remedy="leave it out"
            )
        return TextStream(
            Detokenizer(self._vocabulary),
            sampling.stop,
            sampling.stop_tokens,
            separators=part.separators,
            answer=part.answer,
        )
