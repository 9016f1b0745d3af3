"""What the gateway decides on. What it only passes on stays the message that it was. No protobuf, no network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ramole.core import access
from ramole.core.bounds import check_count, check_number
from ramole.core.chat import Message, check_messages
from ramole.core.composition import Composition, Reroute, Weighting
from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterName, AdapterRef, check_tags
from ramole.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter that a request names itself."""

    name: AdapterName
    weight: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """One valid request for an answer, whatever brought it.

    Attributes:
        prompt: the text to go on with; of a conversation, what its user has asked last.
        named: adapters to use instead of retrieval; empty = retrieve `composition.k` of them.
        may_fall_back: whether the bare base model may answer when retrieval is down.
        messages: the conversation, if it is one.
        query: what retrieval reads instead of the prompt; '' = the prompt.
        tokens: the prompt as the base model's tokens; `prompt` is then empty.
        allows_degraded: whether an answer may do without named adapters that cannot be loaded, and without retrieval.
        tags: what retrieval looks among: adapters that have all of them.

    Raises:
        InvalidInput: naming the field at fault and the remedy; also of a Composition and a Sampling.
    """

    prompt: str
    named: tuple[NamedAdapter, ...]
    composition: Composition
    sampling: Sampling
    may_fall_back: bool = False
    messages: tuple[Message, ...] = ()
    query: str = ""
    tokens: tuple[int, ...] = ()
    allows_degraded: bool = False
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tokens:
            check_prompt(self.prompt)
        check_count("adapters", len(self.named))
        for index, named in enumerate(self.named):
            for part, value in (("weight", named.weight), ("scale", named.scale)):
                check_number(f"adapters.{part}", value, at=f"adapters[{index}].{part}")
        if self.composition.weighting is Weighting.EXPLICIT and not self.named:
            raise InvalidInput(
                "explicit weights without adapters",
                field="adapters",
                remedy="name the adapters that the weights belong to",
            )

        if self.composition.reroute is not Reroute.OFF:
            if len(self.named) == 1:
                raise InvalidInput(
                    "re-routing with one adapter",
                    field="composition.reroute",
                    remedy="name several, or let adapters be retrieved",
                )
            if not self.named and self.composition.k == 0:
                raise InvalidInput(
                    "re-routing, and nothing is retrieved",
                    field="composition.reroute",
                    remedy="leave it out, or raise k",
                )
        if self.tags and (self.named or self.composition.k == 0):
            raise InvalidInput(
                "tags, and nothing is retrieved", field="tags", remedy="leave them out, or let adapters be retrieved"
            )

    @classmethod
    def of(
        cls,
        prompt: str,
        adapters: Collection[tuple[str, float, float]],
        composition: Composition,
        sampling: Sampling,
        *,
        may_fall_back: bool = False,
        messages: Sequence[Message] = (),
        query: str = "",
        tokens: Sequence[int] = (),
        allows_degraded: bool = False,
        tags: Sequence[str] = (),
        max_prompt_chars: int,
    ) -> Order:
        """An order from the plain values of a request.

        Args:
            adapters: name, weight and scale of each.
            max_prompt_chars: of the settings.

        Raises:
            InvalidInput: naming the field at fault and the remedy.
        """
        if messages:
            if prompt:
                raise InvalidInput("a prompt and messages", field="messages", remedy="send one or the other")
            if tokens:
                raise InvalidInput("messages and tokens", field="prompt_token_ids", remedy="send one or the other")
            prompt = check_messages(messages)
            num_chars = sum(len(message.content) for message in messages)
            if num_chars > max_prompt_chars:
                raise InvalidInput(
                    f"{num_chars} characters in all", field="messages", remedy=f"send at most {max_prompt_chars}"
                )
        if tokens:
            if prompt:
                raise InvalidInput("a prompt and tokens", field="prompt_token_ids", remedy="send one or the other")
            check_tokens(tokens, max_prompt_chars)
        else:
            check_prompt(prompt, max_prompt_chars)
        if len(query) > max_prompt_chars:
            raise InvalidInput(f"{len(query)} characters", field="query", remedy=f"send at most {max_prompt_chars}")
        check_count("adapters", len(adapters))
        named = tuple(
            NamedAdapter(access.named(name, field=f"adapters[{index}].adapter"), weight, scale)
            for index, (name, weight, scale) in enumerate(adapters)
        )
        return cls(
            prompt,
            named,
            composition,
            sampling,
            may_fall_back,
            tuple(messages),
            query,
            tuple(tokens),
            allows_degraded,
            check_tags(tags),
        )

    @property
    def retrieval_text(self) -> str:
        """What retrieval reads."""
        return self.query or self.prompt

    @property
    def is_retrieved(self) -> bool:
        """Whether retrieval reads it: to find adapters, or to say which of the named ones comes next."""
        return self.composition.reroute is not Reroute.OFF or not (self.named or self.composition.k == 0)


def check_prompt(prompt: str, max_chars: int | None = None) -> str:
    """Returns `prompt`. Raises InvalidInput when it is blank or too long."""
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", field="prompt", remedy="send some text")
    if max_chars is not None and len(prompt) > max_chars:
        raise InvalidInput(f"{len(prompt)} characters", field="prompt", remedy=f"send at most {max_chars}")
    return prompt


def check_tokens(tokens: Sequence[int], max_count: int) -> None:
    """Raises InvalidInput for too many, or for one that is no token id. What the base model has, its executor knows."""
    if len(tokens) > max_count:
        raise InvalidInput(f"{len(tokens)} tokens", field="prompt_token_ids", remedy=f"send at most {max_count}")
    for index, token in enumerate(tokens):
        check_number("prompt_token_ids", token, at=f"prompt_token_ids[{index}]")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An adapter that an answer does without, and the class of error that it gives, as on the wire."""

    ref: AdapterRef
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One adapter that a request will use; `similarity` is 0 when the request named it."""

    ref: AdapterRef
    similarity: float = 0.0
    weight: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Routing:
    """What a request will use.

    Attributes:
        choices: best first.
        has_fallen_back: retrieval was down, the base model answers alone.
        embed_s, search_s: what the two steps of retrieval took.
        doubt: how likely it is that no adapter was made for the prompt; None = the repository cannot tell.
            `composition` has heeded it already.
        left_out: what should have been among the choices and cannot be used.
        part: of the answer, from 0.
        next_digests: what a later part of the answer may use.
    """

    choices: tuple[Choice, ...]
    composition: Composition
    has_fallen_back: bool = False
    embed_s: float = 0.0
    search_s: float = 0.0
    doubt: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    part: int = 0
    next_digests: tuple[str, ...] = ()

    def without(self, ref: AdapterRef) -> Routing:
        """The same with one adapter less, however often it is there."""
        rest = tuple(choice for choice in self.choices if choice.ref != ref)
        return replace(self, choices=rest, composition=replace(self.composition, k=len(rest)))
