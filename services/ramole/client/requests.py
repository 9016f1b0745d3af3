"""What a client asks: plain values, and the message that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ramole.client.checks import message
from ramole.core.chat import Message
from ramole.core.composition import Composition
from ramole.core.errors import InvalidInput
from ramole.core.sampling import Sampling
from ramole.core.texts import check_text
from ramole.transport.values import composition_to_pb, sampling_to_pb
from ramole.v1 import common_pb2, gateway_pb2


@dataclass(frozen=True, slots=True)
class UseAdapter:
    """An adapter to use instead of retrieval: ``name``, ``tenant/name`` or ``tenant/name@version``.

    Attributes:
        weight: used as given by EXPLICIT weighting, ignored by all others.
        scale: multiplies this adapter's output.
    """

    adapter: str
    weight: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer: a text, a conversation, or the base model's tokens.

    Attributes:
        token_ids: a prompt as tokens, used as they are.
        adapters: used instead of retrieval.
        composition: None = the server's default.
        sampling: None = the server's default.
        query: what retrieval reads instead of the prompt; '' = the prompt.
        tags: retrieve only among adapters that have all of these.
        may_fall_back: whether the bare base model may answer while retrieval is down.
        allow_degraded: answer with what is left rather than fail: also without a named adapter that cannot be loaded.
    """

    prompt: str = ""
    messages: Sequence[Message] = ()
    token_ids: Sequence[int] = ()
    adapters: Sequence[str | UseAdapter] = ()
    composition: Composition | None = None
    sampling: Sampling | None = None
    query: str = ""
    tags: Sequence[str] = ()
    may_fall_back: bool = False
    allow_degraded: bool = False


def request_to_pb(request: Request) -> gateway_pb2.GenerateRequest:
    """The message for the wire. Raises InvalidInput for what it cannot hold."""
    sampling = request.sampling
    for number, stop in enumerate(() if sampling is None else sampling.stop):
        check_text(stop, field=f"sampling.stop[{number}]")
    for number, separator in enumerate(() if request.composition is None else request.composition.separators):
        check_text(separator, field=f"composition.separators[{number}]")
    return message(
        gateway_pb2.GenerateRequest,
        prompt=request.prompt,
        messages=[_turn_to_pb(number, turn) for number, turn in enumerate(request.messages)],
        prompt_token_ids=request.token_ids,
        adapters=[_named_to_pb(number, adapter) for number, adapter in enumerate(request.adapters)],
        composition=None if request.composition is None else composition_to_pb(request.composition),
        sampling=None if sampling is None else sampling_to_pb(sampling),
        fallback=gateway_pb2.FALLBACK_BASE_MODEL if request.may_fall_back else gateway_pb2.FALLBACK_UNSPECIFIED,
        query=request.query,
        tags=request.tags,
        allow_degraded=request.allow_degraded,
    )


def _turn_to_pb(number: int, turn: Message) -> common_pb2.ChatMessage:
    try:
        return message(common_pb2.ChatMessage, role=turn.role, content=turn.content)
    except InvalidInput as error:
        raise error.at(f"messages[{number}].{error.field}") from None


def _named_to_pb(number: int, adapter: str | UseAdapter) -> gateway_pb2.WeightedAdapter:
    named = adapter if isinstance(adapter, UseAdapter) else UseAdapter(adapter)
    try:
        return message(gateway_pb2.WeightedAdapter, adapter=named.adapter, weight=named.weight, scale=named.scale)
    except InvalidInput as error:
        raise error.at(f"adapters[{number}].{error.field}") from None
