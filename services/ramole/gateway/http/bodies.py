"""What HTTP clients send: OpenAI's request bodies with our extension object ``ramole``.

A parameter that this server does not act on is refused by name, unless it has the value that changes nothing. Ranges
are not repeated here: `Sampling` and `Composition` check themselves, and `of_body` says which key is at fault.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ramole.core.composition import Composition
from ramole.core.errors import InvalidInput, RamoleError
from ramole.core.sampling import Sampling

MAX_CHOICES = 16
"""`n`: answers to one prompt."""

MAX_PROMPTS = 64
"""Prompts of one call."""

MAX_ANSWERS = 64
"""Prompts times `n`: all of them wait in the engine's queue at once."""


class Body(BaseModel):
    """Strict: a number is no text, and what nobody reads is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class WeightedAdapter(Body):
    """An adapter that the request names itself."""

    adapter: str
    weight: float = 1.0
    scale: float = 1.0


class Extension(Body):
    """What OpenAI's parameters have no word for.

    Attributes:
        adapters: to use instead of retrieval.
        preset: a named composition; what else is given changes one axis of it.
        fallback: what to do when retrieval is down.
        allow_degraded: whether an answer may do without what is down or broken.
        query: what retrieval reads instead of the prompt.
        tags: what retrieval looks among: adapters that have all of them.
        reroute: when the answer goes on with other adapters: off, at (the separators), at_end.
        separators: texts behind which it does.
        max_parts: parts of the answer at most.
    """

    adapters: tuple[WeightedAdapter, ...] = ()
    preset: str | None = None
    weighting: str | None = None
    merge: str | None = None
    k: int | None = None
    tau: float | None = None
    spread: float | None = None
    scale: float | None = None
    adaptive_spread: bool | None = None
    reroute: str | None = None
    separators: tuple[str, ...] = ()
    max_parts: int | None = None
    fallback: Literal["fail", "base_model"] = "fail"
    allow_degraded: bool = False
    query: str | None = None
    tags: tuple[str, ...] = ()

    def composition(self, default: Composition) -> Composition:
        """The server's default, or the preset, with the axes that are given. Raises InvalidInput."""
        return default.with_axes(
            preset=self.preset,
            weighting=self.weighting,
            merge=self.merge,
            k=self.k,
            tau=self.tau,
            spread=self.spread,
            scale=self.scale,
            is_adaptive=self.adaptive_spread,
            reroute=self.reroute,
            separators=self.separators,
            max_parts=self.max_parts,
        )


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: bool = False


def _as_tuple(value: object) -> object:
    """One text means a list of one. A list becomes what a strict tuple takes."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Stop = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class _Generation(Body):
    """What completions and chats have in common. Defaults are OpenAI's, so `temperature` is 1."""

    model: str
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Stop | None = None
    stop_token_ids: tuple[int, ...] = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = ""
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    ramole: Extension = Extension()

    @model_validator(mode="after")
    def _only_streams_have_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options without stream")
        return self

    def _sampling(self, max_tokens: int | None, *, logprobs: bool, top: int) -> Sampling:
        return Sampling(
            max_tokens=max_tokens,
            stop=self.stop or (),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            logprobs=logprobs,
            stop_tokens=self.stop_token_ids,
            top_logprobs=top,
        )


def _as_prompts(value: object) -> object:
    """One text, or the tokens of one prompt, mean a list of one."""
    if isinstance(value, list) and value and isinstance(value[0], int):
        value = [value]
    if isinstance(value, list):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    return _as_tuple(value)


class CompletionBody(_Generation):
    """``POST /v1/completions``. `prompt` is a text, the token ids of one, or a list of either: one batch."""

    prompt: Annotated[
        tuple[str | tuple[int, ...], ...],
        BeforeValidator(_as_prompts),
        Field(min_length=1, max_length=MAX_PROMPTS),
    ]
    max_tokens: int | None = None
    logprobs: int | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Literal[False] = False
    suffix: None = None

    def sampling(self) -> Sampling:
        """Raises InvalidInput."""
        return self._sampling(self.max_tokens, logprobs=self.logprobs is not None, top=self.logprobs or 0)


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatTurn(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...]
    name: None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Generation):
    """``POST /v1/chat/completions``."""

    messages: Annotated[tuple[ChatTurn, ...], Field(min_length=1)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ")
        return self

    def sampling(self) -> Sampling:
        """Raises InvalidInput."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self._sampling(limit, logprobs=self.logprobs, top=self.top_logprobs or 0)


_NEUTRAL_ONLY = frozenset({"frequency_penalty", "presence_penalty", "best_of", "echo", "suffix"})


def invalid(error: ValidationError) -> InvalidInput:
    """The first fault of a body, by the path of its key."""
    first = error.errors(include_url=False)[0]
    path = field_path(first["loc"])
    if first["type"] == "extra_forbidden" or path in _NEUTRAL_ONLY:
        return InvalidInput("this server does not support it", field=path, remedy="leave it out")
    return InvalidInput(_sentence(first["msg"]), field=path or "body", remedy="see /docs, or OpenAI's reference")


def field_path(loc: tuple[int | str, ...]) -> str:
    """``messages[0].content`` of ``("messages", 0, "content", "str")``: without the branches of a union."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "TextPart"):
            path += f".{part}" if path else part
    return path


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


_KEYS = (
    ("sampling.", ""),
    ("composition.", "ramole."),
    ("adapters[", "ramole.adapters["),
    ("prompt_token_ids", "prompt"),
    ("tags", "ramole.tags"),
)


def of_body(error: RamoleError) -> RamoleError:
    """The same error, naming the key of the body where it names one of an order."""
    for inside, outside in _KEYS:
        if error.field.startswith(inside):
            return error.at(outside + error.field.removeprefix(inside))
    return error


Kind = TypeVar("Kind", bound=Body)


def parse(kind: type[Kind], body: bytes) -> Kind:
    """A body from JSON. Raises InvalidInput."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
