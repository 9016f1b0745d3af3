"""Protobuf <-> values that more than one service exchanges. Enums are mapped by their names, nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from google.protobuf.descriptor import EnumDescriptor

from ramole.core.answer import FinishReason, PartEnd
from ramole.core.chat import Message
from ramole.core.composition import Composition
from ramole.core.errors import Corrupt
from ramole.core.names import AdapterRef
from ramole.core.sampling import Sampling
from ramole.v1 import common_pb2


def names_of(kind: EnumDescriptor) -> dict[int, str]:
    """Number -> name of a wire enum, as it is written here: PRESET_RAMOLE_PRIOR is ``ramole_prior``. 0 has no name."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {
        number: value.name.removeprefix(prefix).lower() for number, value in kind.values_by_number.items() if number
    }


def _number(kind: EnumDescriptor, name: str) -> Any:
    return next(number for number, known in names_of(kind).items() if known == name)


def _name(kind: EnumDescriptor, number: int) -> str | None:
    """None = not given. An unknown number is its own name: whoever looks that up refuses it."""
    return names_of(kind).get(number, str(number)) if number else None


def composition_from_pb(message: common_pb2.Composition, default: Composition) -> Composition:
    """Resolves a preset and its overrides against the server's default.

    Raises:
        InvalidInput: an unknown enum value, or an axis out of its range.
    """

    def given(field: Literal["k", "tau", "spread", "scale", "adaptive_spread"]) -> Any:
        return getattr(message, field) if message.HasField(field) else None

    return default.with_axes(
        preset=_name(common_pb2.Preset.DESCRIPTOR, message.preset),
        weighting=_name(common_pb2.Weighting.DESCRIPTOR, message.weighting),
        merge=_name(common_pb2.Merge.DESCRIPTOR, message.merge),
        k=given("k"),
        tau=given("tau"),
        spread=given("spread"),
        scale=given("scale"),
        is_adaptive=given("adaptive_spread"),
        reroute=_name(common_pb2.Reroute.DESCRIPTOR, message.reroute),
        separators=message.separators,
        max_parts=message.max_parts,
    )


def composition_to_pb(composition: Composition) -> common_pb2.Composition:
    """Every axis set, no preset."""
    return common_pb2.Composition(
        weighting=_number(common_pb2.Weighting.DESCRIPTOR, composition.weighting),
        merge=_number(common_pb2.Merge.DESCRIPTOR, composition.merge),
        k=composition.k,
        tau=composition.tau,
        spread=composition.spread,
        scale=composition.scale,
        adaptive_spread=composition.is_adaptive,
        reroute=_number(common_pb2.Reroute.DESCRIPTOR, composition.reroute),
        separators=composition.separators,
        max_parts=composition.max_parts,
    )


def finish_from_pb(number: int) -> FinishReason:
    """Why an answer ended. Raises Corrupt for a reason that is unknown here."""
    try:
        return FinishReason(names_of(common_pb2.FinishReason.DESCRIPTOR)[number])
    except (KeyError, ValueError):
        raise Corrupt(f"unknown finish reason {number}", remedy="run one version of ramole everywhere") from None


def finish_to_pb(reason: FinishReason) -> common_pb2.FinishReason.ValueType:
    """The same, for the wire."""
    return common_pb2.FinishReason.ValueType(_number(common_pb2.FinishReason.DESCRIPTOR, reason))


def part_end_from_pb(number: int) -> PartEnd | None:
    """What ended a part; None = the answer's own end. Raises Corrupt for what is unknown here."""
    name = _name(common_pb2.PartEnd.DESCRIPTOR, number)
    try:
        return None if name is None else PartEnd(name)
    except ValueError:
        raise Corrupt(f"unknown end of a part {number}", remedy="run one version of ramole everywhere") from None


def part_end_to_pb(end: PartEnd | None) -> common_pb2.PartEnd.ValueType:
    """The same, for the wire."""
    number = 0 if end is None else _number(common_pb2.PartEnd.DESCRIPTOR, end)
    return common_pb2.PartEnd.ValueType(number)


def sampling_from_pb(message: common_pb2.Sampling) -> Sampling:
    """Decoding parameters; 0 where 0 says "off" or "default". Raises InvalidInput when out of range."""
    return Sampling(
        max_tokens=message.max_tokens or None,
        stop=tuple(message.stop),
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p or 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty or 1.0,
        seed=message.seed if message.HasField("seed") else None,
        logprobs=message.logprobs,
        stop_tokens=tuple(message.stop_token_ids),
        top_logprobs=message.top_logprobs,
    )


def sampling_to_pb(sampling: Sampling) -> common_pb2.Sampling:
    """The same, for the wire."""
    return common_pb2.Sampling(
        max_tokens=sampling.max_tokens or 0,
        stop=sampling.stop,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        logprobs=sampling.logprobs,
        stop_token_ids=sampling.stop_tokens,
        top_logprobs=sampling.top_logprobs,
    )


def ref_from_pb(message: common_pb2.AdapterRef) -> AdapterRef:
    """One stored version."""
    return AdapterRef(message.tenant, message.name, message.version, message.digest)


def ref_to_pb(ref: AdapterRef) -> common_pb2.AdapterRef:
    """The same, for the wire."""
    return common_pb2.AdapterRef(tenant=ref.tenant, name=ref.name, version=ref.version, digest=ref.digest)


def messages_from_pb(messages: Iterable[common_pb2.ChatMessage]) -> tuple[Message, ...]:
    """A conversation, as it came."""
    return tuple(Message(message.role, message.content) for message in messages)


def messages_to_pb(messages: Iterable[Message]) -> list[common_pb2.ChatMessage]:
    """The same, for the wire."""
    return [common_pb2.ChatMessage(role=message.role, content=message.content) for message in messages]
